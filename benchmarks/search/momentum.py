"""Repetition and speed of momentum decoding, beside greedy decoding and contrastive search.

    python -m benchmarks.search.momentum smollm2 --texts val.jsonl.zst --prompts 24

Each text continues the first words of a passage of a book (`{"text"}` records) for a fixed number
of tokens. All systems continue a prompt in turn, in another order each time. `share of n` is the
share of tokens inside n-grams that occur more than once in a continuation; `diversity` is that of
the paper, the product of the shares of different 2-, 3- and 4-grams. Times are processor seconds of
the process, which runs in one thread. Intervals draw prompts. Ctrl-C prints the table of what is
done.
"""

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import process_time

from benchmarks.search.intervals import difference, shown
from rich.progress import track

from outrider import Generator, load
from outrider.bench.statistics import Ratio, repeated_tokens
from outrider.training.core.corpus import read_records

SYSTEMS = {
    "greedy, by `generate`": ("none", ""),
    "momentum, alpha 0": ("none", "momentum(alpha=0.0)"),
    "momentum": ("none", "momentum"),
    "momentum, drafted": ("auto", "momentum"),
    "momentum, resistance `blocking`": ("none", "momentum(resistance=blocking)"),
    "contrastive, k 5": ("none", "contrastive(top_k=5)"),
}
GREEDY, COSTLY = "greedy, by `generate`", "contrastive, k 5"


@dataclass(frozen=True)
class Written:
    """A continuation.

    Attributes:
        tokens: its tokens.
        seconds: processor seconds.
        logprob: mean log-probability of a token; None: not returned.
    """

    tokens: tuple[int, ...]
    seconds: float
    logprob: float | None

    def repeated(self, length: int) -> float:
        """Return the share of tokens inside repeated n-grams."""
        return repeated_tokens(self.tokens, length) / len(self.tokens)

    @property
    def diversity(self) -> float:
        """The product of the shares of different n-grams."""
        return prod(_different(self.tokens, length) for length in (2, 3, 4))


def _different(tokens: Sequence[int], length: int) -> float:
    runs = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
    return len(set(runs)) / len(runs)


def written(generator: Generator, search: str, prompt: str, count: int) -> Written:
    """Continue a prompt by a strategy; by greedy decoding without one."""
    begun = process_time()
    if not search:
        result = generator.generate(
            prompt, max_new_tokens=count, temperature=0.0, ignore_eos=True, seed=1
        )
        return Written(tuple(result.token_ids), process_time() - begun, None)
    found = generator.search(search, prompt, max_new_tokens=count, ignore_eos=True, seed=1).best
    return Written(found.token_ids, process_time() - begun, found.score)


def prompts(path: Path, number: int, words: int) -> list[str]:
    """Return the first words of passages, at equal distances in the file."""
    texts = [" ".join(record["text"].split()[:words]) for record in read_records(path)]
    return [texts[i * len(texts) // number] for i in range(number)]


def row(name: str, found: dict[str, list[Written]]) -> str:
    """Return the row of a system."""
    own, greedy, costly = found[name], found[GREEDY], found[COSTLY]
    cells = [sum(text.repeated(n) for text in own) / len(own) for n in (4, 8)]
    diversity = sum(text.diversity for text in own) / len(own)
    scores = [text.logprob for text in own if text.logprob is not None]
    logprob = f"{sum(scores) / len(scores):.2f}" if scores else ""
    change = shown(
        difference([t.repeated(4) for t in own], [t.repeated(4) for t in greedy]), digits=2
    )
    speeds: list[str] = []
    for other in (greedy, costly):
        ratio = Ratio.of([b.seconds / a.seconds for a, b in zip(own, other, strict=True)])
        assert ratio is not None
        speeds.append(f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
    figures = " | ".join(f"{cell:.2f}" for cell in (*cells, diversity))
    return f"| {name} | {figures} | {change} | {logprob} | {' | '.join(speeds)} |"


def main() -> None:
    """Continue all prompts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    given = parser.parse_args()
    generators = {
        drafter: load(given.model, drafter=drafter, threads=1) for drafter in ("none", "auto")
    }
    found: dict[str, list[Written]] = {name: [] for name in SYSTEMS}
    names = list(SYSTEMS)
    for drafter, search in (("none", ""), ("auto", "momentum")):
        written(generators[drafter], search, "Once", 8)
    with suppress(KeyboardInterrupt):
        for number, prompt in enumerate(track(prompts(given.texts, given.prompts, given.words))):
            first = number % len(names)
            own: dict[str, Written] = {}
            for name in names[first:] + names[:first]:
                drafter, search = SYSTEMS[name]
                own[name] = written(generators[drafter], search, prompt, given.tokens)
            for name, text in own.items():
                found[name].append(text)
    same = all(
        a.tokens == b.tokens
        for a, b in zip(found["momentum"], found["momentum, drafted"], strict=True)
    )
    plain = all(
        a.tokens == b.tokens for a, b in zip(found[GREEDY], found["momentum, alpha 0"], strict=True)
    )
    print(
        "| | share of 4 | share of 8 | diversity | share of 4, less greedy | log p |"
        " speed over greedy | speed over contrastive, k 5 |\n|---|--:|--:|--:|---|--:|---|---|"
    )
    for name in SYSTEMS:
        print(row(name, found))
    print(
        f"{len(found[GREEDY])} prompts of {given.words} words, {given.tokens} tokens; drafts change"
        f" {'no' if same else 'a'} text; alpha 0 {'equals' if plain else 'differs from'} greedy;"
        f" load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
