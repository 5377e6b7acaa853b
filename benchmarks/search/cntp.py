"""Exact answers by cautious next token prediction, beside samples with the same budget of tokens.

    python -m benchmarks.search.cntp smollm2 --problems svamp.jsonl.zst --number 60

Problems are `{"question", "answer"}` records with one number as the answer; the last number of a
text is its answer. For each problem, `cntp` writes one text, and then as many samples are drawn at
the same temperature as its computed tokens pay for. They give three baselines: the first sample
(`cntp` with one trial, the idea switched off), the most frequent answer, and the answer of the
sample with the largest mean log-probability. Intervals draw problems. Ctrl-C prints the table of
what is done.
"""

import argparse
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.search.intervals import difference, shown
from rich.progress import track

from outrider import Generator, load
from outrider.search import SearchResult
from outrider.training.core.corpus import read_records

ASKED = "Answer the question in one or two short sentences, and end with the number."
SYSTEMS = ("cntp", "one sample", "majority", "most probable sample", "greedy")


@dataclass(frozen=True)
class Answered:
    """What a system has answered.

    Attributes:
        answer: the number; None: there is none.
        tokens: rows that the model computed.
        logprob: mean log-probability of a token of the text.
        trials: trials of `cntp`.
    """

    answer: float | None
    tokens: int
    logprob: float
    trials: int = 0


def number_in(text: str) -> float | None:
    """Return the last number of a text."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


def voted(answers: Sequence[float | None]) -> float | None:
    """Return the most frequent answer; of equally frequent ones, that given first."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=lambda answer: counts[answer]) if counts else None


def answers(
    generator: Generator, question: str, count: int, seed: int, temperature: float
) -> dict[str, Answered]:
    """Return the answers of all systems to one question."""

    def found(search: str, **options: Any) -> SearchResult:
        return generator.search(
            search,
            [{"role": "user", "content": f"{question}\n{ASKED}"}],
            max_new_tokens=count,
            seed=seed,
            **options,
        )

    warps: dict[str, Any] = {"temperature": temperature, "top_p": 0.9}
    own = found("cntp", **warps)
    one = found("best-of-n(samples=1)", **warps)
    samples = max(round(own.tokens / one.tokens), 1)
    many = found(f"best-of-n(samples={samples})", **warps)
    ordered = sorted(many.candidates, key=lambda text: int(str(text.about["sample"])))
    greedy = found("momentum(alpha=0.0)")

    def answered(result: SearchResult) -> Answered:
        trials = int(str(result.best.about.get("trials", 0)))
        return Answered(number_in(result.text), result.tokens, result.best.score, trials)

    return {
        "cntp": answered(own),
        "one sample": answered(one),
        "majority": Answered(
            voted([number_in(text.text) for text in ordered]), many.tokens, ordered[0].score
        ),
        "most probable sample": answered(many),
        "greedy": answered(greedy),
    }


def main() -> None:
    """Answer all problems and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=1.2)
    given = parser.parse_args()
    generator = load(given.model, drafter="none", threads=1)
    records = list(read_records(given.problems))
    picked = [records[i * len(records) // given.number] for i in range(given.number)]
    found: dict[str, list[Answered]] = {name: [] for name in SYSTEMS}
    right: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    with suppress(KeyboardInterrupt):
        for seed, record in enumerate(track(picked)):
            gold = float(record["answer"])
            own = answers(generator, record["question"], given.tokens, seed, given.temperature)
            for name, one in own.items():
                found[name].append(one)
                right[name].append(float(one.answer == gold))
    done = len(found["cntp"])
    print(
        "| | right | cntp, less this | computed tokens | mean log p | cntp, less this |"
        "\n|---|--:|---|--:|--:|---|"
    )
    ours = [one.logprob for one in found["cntp"]]
    for name in SYSTEMS:
        tokens = sum(one.tokens for one in found[name]) / done
        scores = [one.logprob for one in found[name]]
        of_text = f"{sum(scores) / len(scores):.2f} | {shown(difference(ours, scores), 2)}"
        print(
            f"| {name} | {sum(right[name]):.0f} of {done} |"
            f" {shown(difference(right['cntp'], right[name]), 2)} | {tokens:.0f} |"
            f" {of_text if name != 'majority' else ' | '} |"
        )
    trials = sum(one.trials for one in found["cntp"]) / done
    print(f"{trials:.0f} trials a text; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
