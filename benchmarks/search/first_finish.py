"""First Finish Search beside a majority vote of equally many samples, on word problems.

    python -m benchmarks.search.first_finish smollm2 --questions svamp.jsonl.zst --number 40

Each question is answered by the first of `--samples` texts that ends, by a vote of the first two
that end, by a vote of all, and by one sample, in another order each time. All have the same samples,
so that differences are due to which of them are used. From the texts of the vote follow its ablation
(the last text that ends in place of the first) and votes of fewer samples, with the tokens that they
take. Tokens are rows that the model computes. Intervals draw questions.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from outrider import Generator, load
from outrider.bench.statistics import RESAMPLES, Ratio
from outrider.search import SearchResult
from outrider.search.samples.answers import last_number, number_of
from outrider.search.samples.first_finish import FirstFinish
from outrider.search.samples.majority import Majority
from outrider.training.core.corpus import read_records

ASK = "\nSolve the problem in a few short steps. End with: The answer is <number>."


def difference(a: Sequence[float], b: Sequence[float]) -> str:
    """Return the mean difference of paired values with its 95 % interval."""
    own = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    picked = np.random.default_rng(0).integers(len(own), size=(RESAMPLES, len(own)))
    low, high = np.quantile(own[picked].mean(axis=1), (0.025, 0.975))
    return f"{own.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def right(found: SearchResult, answer: str) -> float:
    """Return whether the best text answers with this number; 0 for a text without an end."""
    best = found.best
    return float(best.finish_reason == "stop" and last_number(best.text) == number_of(answer))


def of_length(choose: Callable[[Sequence[int]], int], found: SearchResult, answer: str) -> float:
    """Return the share of right answers if the text of a length is chosen."""
    wanted = choose([len(one.token_ids) for one in found.candidates])
    same = [one for one in found.candidates if len(one.token_ids) == wanted]
    return float(np.mean([last_number(one.text) == number_of(answer) for one in same]))


def main() -> None:
    """Answer all questions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    generator: Generator = load(given.model, drafter="none", threads=given.threads)
    systems = {
        f"first of {given.samples}": FirstFinish(samples=given.samples),
        f"first 2 of {given.samples}, vote": FirstFinish(samples=given.samples, finish=2),
        f"vote of {given.samples}": Majority(samples=given.samples),
        "one sample": Majority(samples=1),
    }
    names = list(systems)
    records = list(read_records(given.questions))
    records = [records[i * len(records) // given.number] for i in range(given.number)]
    found: dict[str, list[SearchResult]] = {name: [] for name in names}
    for number, record in enumerate(track(records)):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(
                generator.search(
                    systems[name],
                    [{"role": "user", "content": record["question"] + ASK}],
                    max_new_tokens=given.max_new_tokens,
                    temperature=0.6,
                    top_p=0.95,
                    seed=number,
                )
            )
    answers = [record["answer"] for record in records]
    vote = names[2]
    print("| | right | minus the vote | tokens | steps | seconds over the vote |")
    print("|---|--:|---|--:|--:|---|")
    scores = {
        name: [right(a, b) for a, b in zip(rows, answers, strict=True)]
        for name, rows in found.items()
    }
    for name, rows in found.items():
        ratio = Ratio.of([a.seconds / b.seconds for a, b in zip(rows, found[vote], strict=True)])
        assert ratio is not None
        print(
            f"| {name} | {np.mean(scores[name]):.3f} | {difference(scores[name], scores[vote])} "
            f"| {np.mean([row.tokens for row in rows]):.0f} "
            f"| {np.mean([row.forwards for row in rows]):.0f} "
            f"| {ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] |"
        )
    ended = [
        (result, answer)
        for result, answer in zip(found[vote], answers, strict=True)
        if result.best.finish_reason == "stop" and len(result.candidates) > 1
    ]
    short = [of_length(min, *pair) for pair in ended]
    long = [of_length(max, *pair) for pair in ended]
    print(f"\n{len(ended)} questions with at least two texts that end:")
    print(f"shortest right {np.mean(short):.3f}, longest right {np.mean(long):.3f}, ")
    print(f"difference {difference(short, long)}")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
