"""First Finish Search beside votes of as many samples, and of as many tokens, on word problems.

    python -m benchmarks.search.first_finish smollm2 --questions svamp.jsonl.zst --rows rows.jsonl

Questions have two numbers, none above `--largest`, and four solved ones stand before each. The
first of `--samples` texts that ends, a vote of the first `--finish`, and a vote of all answer the
`--timed` ones in turn, in another order each time, and the vote answers all others. They begin the
same samples, so differences are due to which of them are used. From the samples of the vote follow
all other rows (`benchmarks.search.votes`): votes of as many samples as the tokens of the first text
pay for, one sample, the longest text in place of the shortest (the ablation), and all of these with
half as many samples. Of equally long texts the first is drawn there; the strategy takes the more
probable one. Tokens are rows that the model computes, seconds are processor seconds.
Intervals draw questions, and differences are paired.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from time import process_time

import numpy as np
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.intervals import difference, shown
from benchmarks.search.votes.pools import Sample, first_of, rules, vote_of
from benchmarks.search.votes.questions import questions
from rich.progress import track

from outrider import load
from outrider.bench.statistics import Ratio
from outrider.search import Candidate, SearchResult
from outrider.search.samples.answers import last_number, number_of
from outrider.search.samples.first_finish import FirstFinish
from outrider.search.samples.majority import Majority


def mean(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval."""
    found, low, high = bootstrap(values)
    return f"{found:.3f} [{low:.3f}, {high:.3f}]"


def sample_of(one: Candidate, answer: str) -> Sample:
    """Return a candidate as a sample of a pool."""
    ended, found = one.finish_reason == "stop", last_number(one.text)
    return Sample(len(one.token_ids), found, ended, ended and found == number_of(answer))


def table(pools: Sequence[Sequence[Sample]], number: int, finish: int) -> None:
    """Print the rows about so many samples."""
    found = [rules(pool, number, finish, seed) for seed, pool in enumerate(pools)]
    base = [one[f"first of {number}"].right for one in found]
    print(f"| | right | first of {number}, less this | tokens | forwards |\n|---|---|---|--:|--:|")
    for name in found[0]:
        own = [one[name] for one in found]
        right = [one.right for one in own]
        tokens, steps = (
            np.mean([getattr(one, key) for one in own]) for key in ("tokens", "forwards")
        )
        gap = shown(difference(base, right))
        print(f"| {name} | {mean(right)} | {gap} | {tokens:.0f} | {steps:.0f} |")


def main() -> None:
    """Answer all questions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--number", type=int, default=141)
    parser.add_argument("--largest", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--finish", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--timed", type=int, default=40, help="questions that all searches answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=560.0, help="no question begins later")
    parser.add_argument(
        "--rows",
        type=Path,
        required=True,
        help="file for the samples, a line for each question; questions that it has are not asked",
    )
    given = parser.parse_args()
    generator = load(given.model, drafter="none", threads=given.threads)
    systems = {
        "first": FirstFinish(samples=given.samples),
        "several": FirstFinish(samples=given.samples, finish=given.finish),
        "vote": Majority(samples=given.samples),
    }
    pools: list[list[Sample]] = []
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    equal = 0
    for line in given.rows.read_text("utf-8").splitlines() if given.rows.exists() else ():
        row = json.loads(line)
        pools.append([Sample(*one) for one in row["pool"]])
        equal += row["equal"]
        for name, spent in row["seconds"].items():
            seconds[name].append(spent)
    begun = process_time()
    asked = questions(given.questions, given.number, given.largest)
    done = len(pools)
    for number, question in enumerate(track(asked[done:]), start=done):
        if process_time() - begun > given.seconds:
            break
        # The timed questions are at equal distances.
        timed = number * given.timed // len(asked) != (number + 1) * given.timed // len(asked)
        names, results = [*systems] if timed else ["vote"], dict[str, SearchResult]()
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            before = process_time()
            results[name] = generator.search(
                systems[name],
                question.messages(),
                max_new_tokens=given.max_new_tokens,
                temperature=0.6,
                top_p=0.95,
                seed=number,
            )
            if timed:
                seconds[name].append(process_time() - before)
        # The vote returns only texts that ended, if any did; the others are as long as the limit.
        pool = [sample_of(one, question.answer) for one in results["vote"].candidates]
        pool += [Sample(given.max_new_tokens, None, False, False)] * (given.samples - len(pool))
        pools.append(pool)
        fits = timed and all(
            results[name].tokens == outcome.tokens
            for name, outcome in (
                ("first", first_of(pool)),
                ("several", first_of(pool, given.finish)),
                ("vote", vote_of(pool)),
            )
        )
        equal += fits
        with given.rows.open("a", encoding="utf-8") as file:
            row = {"number": number, "pool": [astuple(one) for one in pool], "equal": fits}
            spent = {name: own[-1] for name, own in seconds.items() if timed}
            file.write(json.dumps(row | {"seconds": spent}) + "\n")
    print(
        f"{len(pools)} questions; in {equal} of {len(seconds['vote'])} timed ones all searches "
        "compute the rows that follow from the samples"
    )
    for count in (given.samples, given.samples // 2):
        table(pools, count, given.finish)
    for name in ("first", "several"):
        ratio = Ratio.of([a / b for a, b in zip(seconds[name], seconds["vote"], strict=True)])
        assert ratio is not None
        print(f"seconds, {name} over vote: {ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
    print({name: round(float(np.mean(own)), 2) for name, own in seconds.items()}, "seconds")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
