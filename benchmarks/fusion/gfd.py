"""Fusion of a recogniser with a language model of another tokenizer, beside what it is built from.

    python -m benchmarks.fusion.gfd smollm2 --language DATA/pd_books/children.jsonl.zst \
        --texts DATA/pd_books/val.jsonl.zst --out runs/gfd.jsonl

The recogniser is that of `benchmarks/fusion/channel.py`: a text of single bytes of which letters
were read wrongly. It counts characters in `--language`; the texts are of other books. Each text is
recognised by greedy decoding, by a beam of the recogniser, by re-scoring the texts of a beam with
the language model (the cascade), and by `gfd`. Switched off are, one at a time: the model
(weight 0, the beam), the newest token that is left out, and the tokens that go on beyond the last
byte, so that only the tokens of the tokenizer count.

`gfd` has its defaults, which are those of the paper's code. Temperature, penalty and weight of the
cascades are chosen on the first `--development` texts, and in one row those of `gfd` as well; all
methods are compared on the others. Every row is written as it is found; a later call goes on after
the last one.
Errors are edits of words and of characters, divided by the number of words and characters of the
right texts; intervals draw texts, and differences are paired.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from benchmarks.fusion.channel import (
    END,
    ByteCodec,
    ChannelModel,
    language,
    read_wrongly,
    sentences,
)

from outrider.core.types import IntArray, as_ids
from outrider.drafters import NoDrafter
from outrider.search import Search, SearchResult, Task, run_search
from outrider.search.account import Account
from outrider.search.beams.beam import BeamSearch
from outrider.search.fusion.gfd import Gfd
from outrider.search.fusion.marginal import Marginal, Warp
from outrider.search.fusion.model import ByteModel
from outrider.search.fusion.vocabulary import ByteVocabulary
from outrider.testing.rigs import generation, stage

WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.4)
WARPS = {"1.7, 2": Warp(1.7, 2.0), "1, 1": Warp()}
"""Temperature and repetition penalty of the model: those of the paper's code, and none."""
DEFAULTS = ("1.7, 2", 0.2)
"""The warp and the weight of the paper's code."""
STEP = 37
"""Every so many sentences of the books are taken, so that they are of different pages."""

Row = dict[str, Any]


class TokenizerOnly(ByteVocabulary):
    """A vocabulary of which no token goes on beyond the last byte: the key idea switched off."""

    def longer(self, start: bytes) -> IntArray:
        """Return no token."""
        return as_ids([])


def edits(ours: Sequence[str], right: Sequence[str]) -> int:
    """Return the least number of insertions, deletions and replacements between two sequences."""
    row = list(range(len(right) + 1))
    for i, one in enumerate(ours, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (one != other))
    return row[-1]


@dataclass(slots=True)
class Bench:
    """All methods on one text after the other.

    Attributes:
        recogniser: the target.
        model: the language model.
        out: rows.
        ends: when no further search begins.
        done: rows that are there, by text and method.
    """

    recogniser: ChannelModel
    model: ByteModel
    out: Path
    ends: float
    done: dict[tuple[int, str], Row] = field(default_factory=dict[tuple[int, str], Row])

    def searched(self, search: Search, read: str) -> SearchResult:
        """Recognise a text."""
        codec = ByteCodec()
        prompt = codec.encode(read)
        request = generation(prompt, end_ids=(END,), max_new_tokens=len(read) + 1).request
        task = Task(
            stage=stage(self.recogniser, NoDrafter()),
            request=request,
            account=Account(),
            codec=codec,
        )
        return run_search(search, task, "bench")

    def add(self, number: int, name: str, right: str, found: Callable[[], Row]) -> Row:
        """Return the row of a text and a method; compute it if it is missing."""
        if (number, name) not in self.done:
            if perf_counter() > self.ends:
                raise TimeoutError
            begun = process_time()
            row = found()
            row |= {"number": number, "method": name, "seconds": process_time() - begun}
            row["words"] = edits(row["text"].split(), right.split())
            row["characters"] = edits(row["text"], right)
            row["of_words"], row["of_characters"] = len(right.split()), len(right)
            self.keep(row)
        return self.done[number, name]

    def keep(self, row: Row) -> None:
        """Write a row."""
        self.done[row["number"], row["method"]] = row
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def found(self, search: Search, read: str) -> Row:
        """Return the best text of a search, with its costs."""
        result = self.searched(search, read)
        rows = int(str(result.best.about.get("model_rows", 0)))
        return {
            "text": result.text,
            "model_rows": rows,
            "rows": result.tokens - rows,
            "forwards": result.forwards,
        }

    def cascade(self, warp: Warp, beams: int, read: str) -> Row:
        """Return the texts of a beam of the recogniser with the scores of both."""
        result = self.searched(BeamSearch(num_beams=beams), read)
        marginal = Marginal(self.model, Account(), warp)
        texts = [one.text for one in result.candidates]
        scored = marginal.score([text.encode() for text in texts])
        return {
            "text": texts[0],
            "texts": [
                (one.text, one.score, score.mean)
                for one, score in zip(result.candidates, scored, strict=True)
            ],
            "model_rows": marginal.rows,
            "rows": result.tokens,
            "forwards": result.forwards + 1,
        }

    def gfd(self, warp: Warp, weight: float, **options: Any) -> Gfd:
        """Return the strategy."""
        model = options.pop("model", self.model)
        return Gfd(
            model=model,
            weight=weight,
            model_temperature=warp.temperature,
            model_penalty=warp.penalty,
            **options,
        )


def reranked(row: Row, weight: float, right: str) -> Row:
    """Return the row of a cascade with this weight."""
    text = max(row["texts"], key=lambda one: (1 - weight) * one[1] + weight * one[2])[0]
    changed = {
        "text": text,
        "words": edits(text.split(), right.split()),
        "characters": edits(text, right),
    }
    return row | changed


@dataclass(frozen=True, slots=True)
class Text:
    """A text, and what was read of it."""

    number: int
    right: str
    read: str


def cascades(
    bench: Bench, texts: Sequence[Text], beams: int, warp: str, weight: float
) -> list[Row]:
    """Return the rows of a cascade."""

    def found(text: Text) -> Row:
        name = f"cascade of {beams}, warp {warp}"
        return bench.add(
            text.number, name, text.right, lambda: bench.cascade(WARPS[warp], beams, text.read)
        )

    return [reranked(found(text), weight, text.right) for text in texts]


def fused(
    bench: Bench,
    texts: Sequence[Text],
    warp: str,
    weight: float,
    name: str = "gfd",
    **options: Any,
) -> list[Row]:
    """Return the rows of `gfd`."""
    search = bench.gfd(WARPS[warp], weight, **options)
    return [
        bench.add(
            text.number,
            f"{name}, warp {warp}, weight {weight}",
            text.right,
            lambda read=text.read: bench.found(search, read),
        )
        for text in texts
    ]


Chosen = tuple[str, float]
"""A warp and a weight."""
Rows = Callable[[str, float], list[Row]]


def choose(methods: Mapping[str, Rows]) -> dict[str, Chosen]:
    """Return the warp and the weight of the fewest wrong words, for each method."""
    found: dict[str, Chosen] = {}
    for name, rows_of in methods.items():
        rates: dict[Chosen, tuple[float, float]] = {}
        for warp in WARPS:
            for weight in WEIGHTS:
                rows = rows_of(warp, weight)
                rates[warp, weight] = rate(rows), rate(rows, "characters")
        found[name] = min(rates, key=lambda one: rates[one])
        listed = ", ".join(f"({warp}) {w}: {100 * r[0]:.1f}" for (warp, w), r in rates.items())
        print(f"{name}: {found[name]} of {listed}")
    return found


def compare(bench: Bench, texts: Sequence[Text], chosen: Mapping[str, Chosen]) -> None:
    """Print the table of all methods."""

    def rows_of(name: str, search: Search) -> list[Row]:
        return [
            bench.add(
                text.number, name, text.right, lambda read=text.read: bench.found(search, read)
            )
            for text in texts
        ]

    model = bench.model
    plain = TokenizerOnly(
        [model.vocabulary.bytes_of(token) for token in range(len(model.vocabulary))],
        model.vocabulary.tokenizer,
    )
    found = {
        "what was read": [
            bench.add(text.number, "read", text.right, lambda text=text: {"text": text.read})
            for text in texts
        ],
        "recogniser, greedy": rows_of("greedy", BeamSearch(num_beams=1)),
        "recogniser, 5 beams (gfd, weight 0)": rows_of("weight 0", Gfd(model=model, weight=0.0)),
        "recogniser, 20 beams": rows_of("20 beams", BeamSearch(num_beams=20)),
        "cascade of 5": cascades(bench, texts, 5, *chosen["cascade of 5"]),
        "cascade of 20": cascades(bench, texts, 20, *chosen["cascade of 20"]),
        "gfd": fused(bench, texts, *DEFAULTS),
        "gfd, weight chosen": fused(bench, texts, *chosen["gfd"]),
        "gfd, tokens of the tokenizer only": fused(
            bench,
            texts,
            *DEFAULTS,
            name="tokenizer only",
            model=ByteModel(model.model, plain, model.opening),
        ),
        "gfd, newest token scored too": fused(bench, texts, *DEFAULTS, name="not late", late=False),
    }
    print(f"{len(texts)} texts")
    print(
        "| | word errors, % | character errors, % | gfd minus this, words | rows of the recogniser "
        "| rows of the model | processor s |"
    )
    print("|---|---|---|---|--:|--:|--:|")
    for name, rows in found.items():
        costs = [
            sum(row.get(what, 0) for row in rows) / len(rows)
            for what in ("rows", "model_rows", "seconds")
        ]
        difference = "" if name == "gfd" else gain(found["gfd"], rows)
        print(
            f"| {name} | {shown(rows, 'words')} | {shown(rows, 'characters')} | {difference} "
            f"| {costs[0]:.0f} | {costs[1]:.0f} | {costs[2]:.2f} |"
        )


def rate(rows: Sequence[Row], what: str = "words") -> float:
    """Return the rate of errors."""
    return sum(row[what] for row in rows) / sum(row[f"of_{what}"] for row in rows)


def shown(rows: Sequence[Row], what: str) -> str:
    """Return a rate of errors in percent, with the interval of the mean over texts."""
    values = [(row[what], row[f"of_{what}"]) for row in rows]
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    sums = np.asarray(values)[draws].sum(1)
    low, high = np.quantile(100 * sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return f"{100 * rate(rows, what):.1f} [{low:.1f}, {high:.1f}]"


def gain(rows: Sequence[Row], base: Sequence[Row], what: str = "words") -> str:
    """Return the paired difference of a rate of errors in percent points, with its interval."""
    pairs = [(a[what] - b[what], a[f"of_{what}"]) for a, b in zip(rows, base, strict=True)]
    draws = np.random.default_rng(0).integers(0, len(pairs), (2000, len(pairs)))
    sums = np.asarray(pairs)[draws].sum(1)
    low, high = np.quantile(100 * sums[:, 0] / sums[:, 1], [0.025, 0.975])
    whole = np.asarray(pairs).sum(0)
    return f"{100 * whole[0] / whole[1]:+.1f} [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    """Choose the weights, compare all methods, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--language", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=2_000_000)
    parser.add_argument("--length", type=int, default=48, help="most characters of a text")
    parser.add_argument("--development", type=int, default=24)
    parser.add_argument("--test", type=int, default=80)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=540.0, help="no search begins later")
    given = parser.parse_args()
    ends = perf_counter() + given.seconds
    count = given.development + given.test
    every = sentences(given.texts, "text", given.length)
    random = np.random.default_rng(0)
    texts = [
        Text(number, text, read_wrongly(text, random))
        for number, text in enumerate(islice(islice(every, 0, None, STEP), count))
    ]
    table = language(sentences(given.language, "text", 400), given.characters)
    bench = Bench(
        recogniser=ChannelModel(table),
        model=ByteModel.load(given.model, threads=given.threads),
        out=given.out,
        ends=ends,
    )
    if given.out.exists():
        for line in given.out.read_text().splitlines():
            row = json.loads(line)
            bench.done[row["number"], row["method"]] = row
    first, others = texts[: given.development], texts[given.development :]
    methods = {
        "cascade of 5": lambda warp, weight: cascades(bench, first, 5, warp, weight),
        "cascade of 20": lambda warp, weight: cascades(bench, first, 20, warp, weight),
        "gfd": lambda warp, weight: fused(bench, first, warp, weight),
    }
    try:
        compare(bench, others, choose(methods))
    except TimeoutError:
        print("the time is over; call it again with the same --out")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
