"""Drafters beside undrafted decoding on a real model, by category of Spec-Bench.

    python -m benchmarks.real_models.drafting MODEL --prompts question.jsonl.zst
    python -m benchmarks.real_models.drafting MODEL --prompts question.jsonl.zst --head FOLDER \
        --drafters none auto free hinted "fallback(suffix,hinted)" "tree(eagle2)"

Every prompt is answered by each drafter in turn, in another order each time, and the answers must
be equal. Each setting has its own generator, since some drafters remember earlier answers. All of
them read the same weights, since two copies in memory may differ in speed. A ratio is that of the
tokens per second after the prompt is read, to undrafted decoding of the same prompt under the same
setting. Intervals draw whole prompts, since the settings of one prompt are not
independent. The best single drafter is chosen on the prompts with even numbers and compared with
`auto` on the others, and the other way round. Results are written as they come; a second run
continues the first.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.long_inputs.intervals import geometric
from benchmarks.real_models.prompts import by_category
from rich.progress import track

from outrider import Generator, load

DRAFTERS = ("none", "auto", "suffix", "lookup", "sam", "recycling")
PLAIN = "none"
COMBINED = "auto"
FREE = "free"
HEADS = ("hinted", "eagle3", "model", "tree")

Line = dict[str, Any]


def measure(given: argparse.Namespace) -> None:
    """Answer all prompts under all settings."""
    done = {key(line) for line in read(given.out)}
    prompts = by_category(given.prompts, given.of_each, given.characters)
    for threads in given.threads:
        plain = load(given.model, drafter=PLAIN, threads=threads)
        loaded: dict[tuple[str, float], Generator] = {}
        cases = [(i, t) for i, t in product(range(len(prompts)), given.temperatures)]
        for number, (place, temperature) in enumerate(track(cases, f"{threads} threads")):
            category, text = prompts[place]
            names = given.drafters[number % len(given.drafters) :]
            names += given.drafters[: number % len(given.drafters)]
            for name in names:
                line: Line = {
                    "drafter": name,
                    "threads": threads,
                    "temperature": temperature,
                    "prompt": place,
                    "category": category,
                }
                if key(line) in done:
                    continue
                own = name, temperature
                if own not in loaded:
                    loaded[own] = beside(plain, name, given)
                line |= answer(loaded[own], text, temperature, given.max_new_tokens)
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def beside(plain: Generator, name: str, given: argparse.Namespace) -> Generator:
    """Return a generator for a drafter, over the weights of `plain`.

    `free` is the automatic choice without the head; a drafter in whose name a kind of head occurs,
    and `auto`, have the head.
    """
    target, own = plain.strategy.target, {"tokenizer": given.model}
    if name == FREE:
        return load(target, drafter=COMBINED, draft="none", **own)
    reads = name == COMBINED or any(kind in name for kind in HEADS)
    return load(target, drafter=name, draft=given.head if reads else "none", **own)


def answer(generator: Generator, text: str, temperature: float, tokens: int) -> Line:
    """Return the figures of one answer."""
    chat = [{"role": "user", "content": text}]
    result = generator.generate(chat, max_new_tokens=tokens, temperature=temperature, seed=7)
    counters = result.speculation.target
    return {
        "tokens": list(result.token_ids),
        "seconds": result.seconds,
        "speed": result.tokens_per_second,
        "rounds": counters.rounds,
        "undrafted": counters.undrafted_rounds,
        "drafted": counters.drafted,
        "accepted": counters.accepted,
        "origins": {
            name: [t.drafts, t.drafted, t.accepted] for name, t in counters.tallies.items()
        },
        "load": os.getloadavg()[0],
    }


def key(line: Line) -> tuple[Any, ...]:
    """Return what identifies a line."""
    return tuple(line[name] for name in ("drafter", "threads", "temperature", "prompt"))


def read(path: Path) -> list[Line]:
    """Return the lines that were written before."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def report(path: Path, shortest: int) -> None:
    """Print the tables; answers with fewer tokens than `shortest` are left out."""
    lines = {key(line): line for line in read(path)}
    plain = {k[1:]: line for k, line in lines.items() if k[0] == PLAIN}
    pairs = [
        (line, plain[k[1:]])
        for k, line in lines.items()
        if k[0] != PLAIN and k[1:] in plain and len(plain[k[1:]]["tokens"]) >= shortest
    ]
    different = sum(a["tokens"] != b["tokens"] for a, b in pairs)
    loads = sorted(line["load"] for line in lines.values())
    print(f"{different} of {len(pairs)} drafted texts differ from undrafted text")
    print(f"load average {loads[0]:.1f} to {loads[-1]:.1f}, median {loads[len(loads) // 2]:.1f}")
    names = list(dict.fromkeys(line["drafter"] for line, _ in pairs))
    kinds = list(dict.fromkeys(line["category"] for line, _ in pairs))
    for part, unit in (("threads", "threads"), ("temperature", "is the temperature")):
        for value in sorted({line[part] for line, _ in pairs}):
            own = [pair for pair in pairs if pair[0][part] == value]
            _whole(f"{value} {unit}", own, names, kinds)
    _whole("all", pairs, names, kinds)


def _whole(
    title: str, pairs: Sequence[tuple[Line, Line]], names: Sequence[str], kinds: Sequence[str]
) -> None:
    _table(title, pairs, names, kinds)
    single = [name for name in names if name != COMBINED]
    if COMBINED in names and single:
        _judge(pairs, single)


def _table(
    title: str, pairs: Sequence[tuple[Line, Line]], names: Sequence[str], kinds: Sequence[str]
) -> None:
    print(f"\n{title}: tokens per round; speed over undrafted\n")
    print("| | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for kind in (*kinds, None):
        cells: list[str] = []
        for name in names:
            own = [p for p in pairs if p[0]["drafter"] == name and kind in (None, p[0]["category"])]
            cells.append(_cell(own))
        print(f"| {kind or 'all'} | " + " | ".join(cells) + " |")


def _cell(pairs: Sequence[tuple[Line, Line]]) -> str:
    if not pairs:
        return ""
    tokens = sum(len(a["tokens"]) for a, _ in pairs) / sum(a["rounds"] for a, _ in pairs)
    mean, low, high = _mean(pairs, lambda a, b: a["speed"] / b["speed"])
    return f"{tokens:.2f}; {mean:.2f} [{low:.2f}, {high:.2f}]"


def _mean(
    pairs: Sequence[tuple[Line, Line]], ratio: Callable[[Line, Line], float]
) -> tuple[float, float, float]:
    """Return the geometric mean of the ratios, with its interval over prompts."""
    return geometric([ratio(a, b) for a, b in pairs], [str(a["prompt"]) for a, _ in pairs])


def _judge(pairs: Sequence[tuple[Line, Line]], single: Sequence[str]) -> None:
    """Compare `auto` with the best single drafter of the other half of the prompts."""
    compared: list[tuple[Line, Line]] = []
    for half in (0, 1):
        best = max(
            single,
            key=lambda name: _mean(
                [p for p in pairs if p[0]["drafter"] == name and p[0]["prompt"] % 2 == half],
                lambda a, b: a["speed"] / b["speed"],
            )[0],
        )
        print(f"best single drafter on half {half}: {best}")
        judged = {
            key(a)[1:]: a for a, _ in pairs if a["drafter"] == best and a["prompt"] % 2 != half
        }
        compared += [
            (a, judged[key(a)[1:]])
            for a, _ in pairs
            if a["drafter"] == COMBINED and key(a)[1:] in judged
        ]
    mean, low, high = _mean(compared, lambda a, b: a["speed"] / b["speed"])
    print(f"{COMBINED} over the best single drafter: {mean:.3f} [{low:.3f}, {high:.3f}]")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="leave it out to print the tables only")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/drafting.jsonl"))
    parser.add_argument("--drafters", nargs="+", default=list(DRAFTERS))
    parser.add_argument("--head", type=Path, help="the draft head; default: one that ships")
    parser.add_argument("--of-each", type=int, default=20)
    parser.add_argument("--characters", type=int, default=3000)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shortest", type=int, default=16)
    given = parser.parse_args()
    if given.model:
        if given.prompts is None:
            parser.error("give --prompts, the question file of Spec-Bench")
        given.out.parent.mkdir(parents=True, exist_ok=True)
        measure(given)
    report(given.out, given.shortest)


if __name__ == "__main__":
    main()
