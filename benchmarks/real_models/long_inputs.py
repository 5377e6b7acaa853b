"""Planted facts in books, asked of a real model that reads everything or a part of them.

    python -m benchmarks.real_models.long_inputs MODEL --data DIR --out runs/facts

Each document is a part of a novel with four invented facts of four kinds, a line each, at random
places: "The secret code of Hulmere is 4821." A question asks for one of them. An answer is right if
it contains the number. With `--same-kind` all four are secret codes of different places, so that
three others distract. All settings (everything; keep ratios) answer each
question, in turn, greedily and undrafted. The first question about a document is read afresh by
each setting, and only these are timed; for the others the rows of a common prefix are used again,
which changes no bit of an answer.

Two kinds of error are told apart: the line was not read, or it was read and the answer is wrong.
Selections by other rankers are recorded without running the model.

A line for each question is written as it comes, and a second run continues the first. Then the
table: share right with Wilson's interval, differences to reading everything with bootstrap
intervals over documents, and medians of times with paired ratios. `--form` and `--books` choose
the form of the question; `--lengths 1000 1000 --ratios` measures a form on short documents.
"""

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.long_inputs.inputs.planted import plant
from benchmarks.long_inputs.inputs.texts import read_lines
from benchmarks.long_inputs.intervals import bootstrap, wilson
from benchmarks.long_inputs.records import Records
from benchmarks.real_models.readers import DENSE, Readers, cut_to

from outrider.context.config import ContextConfig
from outrider.context.rankers.make import make_ranker
from outrider.context.selector import Selected

KINDS = ("secret code", "telephone number", "lucky number", "ticket number")
FORMS: dict[str, tuple[str, bool, int]] = {
    "completion": ("The {} is", False, 8),
    "question": (
        "Question: What is the {0}?\nAnswer: The {0} is",
        False,
        8,
    ),
    "chat": (
        "Read the text above. What is the {}? Answer with the number alone.",
        True,
        24,
    ),
}
"""The instruction, whether it is a chat message, and the tokens of the answer."""

CLOCKS = ("ttft", "total", "ttft_cpu", "total_cpu")

_BEGINNINGS = ("Arden", "Brem", "Cald", "Dors", "Fen", "Gren", "Hul", "Jor", "Kel", "Mor", "Rav")
_ENDS = ("fall", "wick", "mere", "stead", "holm", "bury", "gate", "ford")
_FACTS = 4
_CONTROLS = ("random", "bm25", "first")
_CONTROL_RATIO = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A part of a book with facts in it.

    Attributes:
        name: its number and the book.
        text: with the facts.
        facts: what each is about ("secret code of Hulmere"), and its number.
    """

    name: str
    text: str
    facts: tuple[tuple[str, str], ...]


def documents(
    file: Path, readers: Readers, count: int, lengths: tuple[int, int], seed: int, mixed: bool
) -> Iterator[Document]:
    """Yield documents of random books; their lengths in tokens are uniform in logarithm."""
    books: dict[str, list[str]] = {}
    for record in read_lines(file):
        books.setdefault(record["title"], []).append(record["text"])
    rng = random.Random(seed)
    # A token has about four characters; six make sure that the rest of the book is long enough.
    enough = {t: p for t, p in books.items() if sum(map(len, p)) > 6 * lengths[1]}
    titles = sorted(enough)
    for number in range(count):
        title, tokens = rng.choice(titles), _between(*lengths, rng)
        book = "\n\n".join(enough[title])
        begin = book.find("\n\n", rng.randrange(len(book) - 6 * lengths[1] + 1)) + 2
        text = cut_to(readers.tokenizer, book[begin : begin + 8 * tokens], tokens)
        names = [a + b for a in _BEGINNINGS for b in _ENDS]
        places = rng.sample(names, _FACTS)
        codes = [str(code) for code in rng.sample(range(1000, 10_000), _FACTS)]
        kinds = KINDS if mixed else KINDS[:1] * _FACTS
        abouts = [f"{kind} of {place}" for kind, place in zip(kinds, places, strict=True)]
        facts = tuple(zip(abouts, codes, strict=True))
        text, _ = plant(text, [line_of(*fact) for fact in facts], rng)
        yield Document(name=f"{number} {title}", text=text, facts=facts)


def line_of(about: str, code: str) -> str:
    """Return the line that says it."""
    return f"The {about} is {code}."


def _between(shortest: int, longest: int, rng: random.Random) -> int:
    return round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))


def ask(
    readers: Readers, controls: dict[str, Any], document: Document, number: int, form: str
) -> dict[str, Any]:
    """Ask one question in all settings; the order of the settings changes with the question."""
    about, code = document.facts[number]
    asked, chat, tokens = FORMS[form]
    text = asked.format(about)
    instruction = [{"role": "user", "content": text}] if chat else text
    line = line_of(about, code)
    settings = list(readers.by)
    turn = hash_of(document.name) % len(settings)
    found: dict[str, Any] = {}
    for setting in settings[turn:] + settings[:turn]:
        own = readers.answer(
            setting, instruction, document.text, max_new_tokens=tokens, fresh=number == 0
        )
        own["kept"] = any(line in chunk for chunk in own.pop("read"))
        own["right"] = code in own["text"]
        own["other"] = any(other in own["text"] for _, other in document.facts if other != code)
        found[setting] = own
    prompt = readers.by[DENSE].prompt(instruction, documents=document.text)
    assert prompt.context is not None
    read = {
        name: any(line in prompt.context.chunks[i].text for i in one.selection(prompt).chosen)
        for name, one in controls.items()
    }
    return {"code": code, "timed": number == 0, "by": found, "controls": read}


def hash_of(name: str) -> int:
    """Return a number that is the same in every run."""
    return sum(name.encode())


def controls_of(readers: Readers) -> dict[str, Selected]:
    """Return other selections, which are asked what they would read."""
    model = readers.by[DENSE].strategy.target
    out: dict[str, Selected] = {}
    for name in _CONTROLS:
        config = ContextConfig(keep_ratio=_CONTROL_RATIO, selector=name)
        out[name] = Selected(model, make_ranker(config, model.embed), config)
    return out


def run(args: argparse.Namespace, records: Records) -> None:
    """Ask all questions; those that are answered are left out."""
    readers = Readers.open(args.model, args.ratios, threads=args.threads, context={})
    file = args.data / "pd_books" / f"{args.books}.jsonl.zst"
    controls = controls_of(readers)
    begun, lengths = perf_counter(), (args.lengths[0], args.lengths[1])
    target = readers.by[DENSE].strategy.target
    records.add("target", fingerprint=target.info.fingerprint, load=readers.load)
    for document in documents(
        file, readers, args.documents, lengths, args.seed, not args.same_kind
    ):
        keys = [f"{document.name}, {number}" for number in range(_FACTS)]
        if all(key in records.keys for key in keys):
            continue
        for number, key in enumerate(keys):
            # A document that was left in the middle is read again from its first question on.
            found = ask(readers, controls, document, number, args.form)
            if key not in records.keys:
                records.add("question", key=key, document=document.name, **found)
        told = {s: sum(q["by"][s]["right"] for q in records.of("question")) for s in readers.by}
        asked = len(records.of("question"))
        print(f"{asked} questions, {perf_counter() - begun:.0f} s, right: {told}", flush=True)
        if args.seconds and perf_counter() - begun > args.seconds:
            print("the time is over; the same command continues", flush=True)
            break


# -- the table ---------------------------------------------------------------------------------


def summarise(records: Records) -> None:
    """Print and record the tables."""
    lines = records.of("question")
    if not lines:
        return
    where = [line["document"] for line in lines]
    lengths = [line["by"][DENSE]["prompt_tokens"] for line in lines]
    print(f"\n{len(lines)} questions, {len(set(where))} documents of {min(lengths)} to", end=" ")
    print(f"{max(lengths)} tokens (median {median(lengths):.0f})")
    for setting in lines[0]["by"]:
        own = [line["by"][setting] for line in lines]
        kept = [one for one in own if one["kept"]]
        right = sum(one["right"] for one in own)
        gains = [
            float(o["right"]) - float(d["by"][DENSE]["right"])
            for o, d in zip(own, lines, strict=True)
        ]
        row: dict[str, Any] = {
            "setting": setting,
            "right": right / len(own),
            "interval": wilson(right, len(own)),
            "over dense": bootstrap(gains, where),
            "line read": len(kept) / len(own),
            "right if read": sum(one["right"] for one in kept) / max(len(kept), 1),
            "another code": sum(one["other"] and not one["right"] for one in own) / len(own),
            "share of tokens": median(
                one["kept_tokens"] / line["by"][DENSE]["kept_tokens"]
                for one, line in zip(own, lines, strict=True)
            ),
        }
        records.add("table", **row, **times(lines, setting))
        print(setting, {k: rounded(v) for k, v in row.items() if k != "setting"})
        print("   ", {k: rounded(v) for k, v in times(lines, setting).items()})
    for name in lines[0]["controls"]:
        read = sum(line["controls"][name] for line in lines)
        share = rounded([read / len(lines), *wilson(read, len(lines))])
        print(f"{name} {_CONTROL_RATIO}: line read {share}")


def times(lines: Sequence[dict[str, Any]], setting: str) -> dict[str, Any]:
    """Return medians of seconds of the questions that were read afresh, and ratios to dense."""
    fresh = [line["by"] for line in lines if line["timed"]]
    out: dict[str, Any] = {"timed": len(fresh)}
    for figure in (*CLOCKS, "select"):
        out[figure] = median(by[setting][figure] for by in fresh)
    for figure in CLOCKS:
        ratios = sorted(by[DENSE][figure] / by[setting][figure] for by in fresh)
        quarter = len(ratios) // 4
        out[f"{figure} ratio"] = (median(ratios), ratios[quarter], ratios[-1 - quarter])
    loads = sorted(by[setting]["load"] for by in fresh)
    out["load"] = (loads[0], median(loads), loads[-1])
    return out


def rounded(value: Any) -> Any:
    """Round the numbers of a value."""
    if isinstance(value, float):
        return round(value, 3)
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--books", default="novels", choices=("novels", "children", "val"))
    parser.add_argument("--form", default="completion", choices=FORMS)
    parser.add_argument("--same-kind", action="store_true", help="four facts of one kind")
    parser.add_argument("--documents", type=int, default=50, help="four questions each")
    parser.add_argument("--lengths", type=int, nargs=2, default=[3000, 7000], help="in tokens")
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.7, 0.5, 0.3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="begin no document after this time")
    args = parser.parse_args()
    left_out = ("out", "data", "seconds", "documents")
    settings = {k: v for k, v in sorted(vars(args).items()) if k not in left_out}
    records = Records(args.out / "long_inputs.jsonl", settings)
    run(args, records)
    summarise(records)


if __name__ == "__main__":
    main()
