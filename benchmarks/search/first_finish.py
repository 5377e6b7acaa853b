"""First Finish Search beside a majority vote of equally many samples, on word problems.

    python -m benchmarks.search.first_finish smollm2 --questions svamp.jsonl.zst --number 40

Each question is answered by the first of `--samples` texts that ends and by a vote of all, in
another order each time. Both begin the same samples, so differences are due to which of them are
used. From the texts of the vote follow what one sample, and the last text that ends in place of the
first (the ablation), would answer. Tokens are rows that the model computes. Intervals draw
questions.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from benchmarks.long_inputs.intervals import bootstrap
from rich.progress import track

from outrider import load
from outrider.bench.statistics import Ratio
from outrider.search import Candidate, SearchResult
from outrider.search.samples.answers import last_number, number_of
from outrider.search.samples.first_finish import FirstFinish
from outrider.search.samples.majority import Majority
from outrider.training.core.corpus import read_records

ASK = "\nGive a short calculation and the answer."


def mean(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval."""
    found, low, high = bootstrap(values)
    return f"{found:.3f} [{low:.3f}, {high:.3f}]"


def right(one: Candidate, answer: str) -> float:
    """Return whether a text answers with this number; 0 for a text without an end."""
    return float(one.finish_reason == "stop" and last_number(one.text) == number_of(answer))


def at_length(found: SearchResult, length: int, answer: str) -> float:
    """Return the share of right ones of the texts with this length."""
    same = [one for one in found.candidates if len(one.token_ids) == length]
    return float(np.mean([right(one, answer) for one in same]))


def main() -> None:
    """Answer all questions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="no question begins later")
    given = parser.parse_args()
    generator = load(given.model, drafter="none", threads=given.threads)
    systems = [FirstFinish(samples=given.samples), Majority(samples=given.samples)]
    records = list(read_records(given.questions))
    records = [records[i * len(records) // given.number] for i in range(given.number)]
    found: list[list[SearchResult]] = [[], []]
    begun = perf_counter()
    for number, record in enumerate(track(records)):
        if perf_counter() - begun > given.seconds:
            records = records[:number]
            break
        for place in (0, 1) if number % 2 else (1, 0):
            result = generator.search(
                systems[place],
                [{"role": "user", "content": record["question"] + ASK}],
                max_new_tokens=given.max_new_tokens,
                temperature=0.6,
                top_p=0.95,
                seed=number,
            )
            found[place].append(result)
    answers = [record["answer"] for record in records]
    first, vote = found
    print(f"{len(records)} questions")
    pairs = list(zip(vote, answers, strict=True))
    print("| | right | tokens | forwards |\n|---|---|--:|--:|")
    for name, rows in zip(("first", "vote"), found, strict=True):
        scores = [right(row.best, answer) for row, answer in zip(rows, answers, strict=True)]
        tokens, steps = (np.mean([getattr(r, key) for r in rows]) for key in ("tokens", "forwards"))
        print(f"| {name} of {given.samples} | {mean(scores)} | {tokens:.0f} | {steps:.0f} |")
    singles = [sum(right(one, a) for one in row.candidates) / given.samples for row, a in pairs]
    written = np.mean([row.tokens for row in vote]) / given.samples
    print(f"| one sample | {mean(singles)} | {written:.0f} | {written:.0f} |")
    ratios = {
        "seconds": [a.seconds / b.seconds for a, b in zip(first, vote, strict=True)],
        "tokens": [a.tokens / b.tokens for a, b in zip(first, vote, strict=True)],
    }
    for name, values in ratios.items():
        ratio = Ratio.of(values)
        assert ratio is not None
        print(f"{name} of the first over the vote: {ratio.mean:.2f}", end=" ")
        print(f"[{ratio.low:.2f}, {ratio.high:.2f}]")
    several = [
        (row, answer, sorted(len(one.token_ids) for one in row.candidates))
        for row, answer in pairs
        if row.best.finish_reason == "stop" and len(row.candidates) > 1
    ]
    gains = [at_length(r, n[0], answer) - at_length(r, n[-1], answer) for r, answer, n in several]
    if gains:
        print(f"shortest right minus longest right: {mean(gains)}, {len(gains)} questions")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
