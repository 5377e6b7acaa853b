"""PG-TD beside sampling and choosing by tests, at an equal number of completions, on the easiest
functions of MBPP.

    python -m benchmarks.search.pg_td smollm2 --problems mbpp_sanitized.jsonl.zst \
        --allow-code-execution

The model continues the first lines of a function after two solved ones; a token that is a single
line break ends it. Public tests (every other one) choose among the completions of each system; a
problem counts as solved if the chosen text passes all tests. Without the prior of the model, PG-TD
takes the proposed tokens as equally likely. The easiest functions are those with the shortest
solutions. Programs run in a sandbox (bubblewrap). An interval draws problems.
"""

import argparse
import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from benchmarks.search.a_star import interval
from rich.progress import track

from outrider import Generator, load
from outrider.search.scorers.programs import ProgramScorer, halves
from outrider.training.core.corpus import read_records

EXAMPLES = '''def square_plus_one(n):
    """Write a function to find the square of a number plus one."""
    return n * n + 1

def last_of(items):
    """Write a function to return the last element of a list."""
    return items[-1]

'''


@dataclass(frozen=True)
class Problem:
    """A function to write.

    Attributes:
        header: its first lines, without the line break behind them.
        solution: what is written after them.
        tests: statements that fail for a wrong function.
    """

    header: str
    solution: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a system has written for a problem: whether it passes all tests, its share of public
    tests, rows that the model computed, and distinct texts."""

    solved: bool
    public: float
    tokens: int
    texts: int


def problem_of(record: Mapping[str, str]) -> Problem | None:
    """Return a problem; None if the first lines hold more than a function and its description."""
    header = record["prompt"].rstrip("\n")
    if not header.startswith("def ") or "'''" not in header:
        return None
    first, _, rest = header.partition("'''")
    description = " ".join(rest.replace("'''", " ").split())
    [check] = ast.parse(record["test"]).body
    assert isinstance(check, ast.FunctionDef)
    tests = tuple(ast.unparse(one) for one in check.body)
    return Problem(f'{first}"""{description}"""', record["canonical_solution"], tests)


def easiest(path: Path, number: int) -> list[Problem]:
    """Return the problems with the shortest solutions, of those with at least two tests."""
    every = [problem_of(record) for record in read_records(path)]
    known = [problem for problem in every if problem and len(problem.tests) > 1]
    return sorted(known, key=lambda problem: len(problem.solution))[:number]


def scorer(problem: Problem, tests: Sequence[str], allowed: bool) -> ProgramScorer:
    """Return the share of these tests that a continuation of a problem passes."""
    return ProgramScorer(tuple(tests), allow_code_execution=allowed, before=problem.header)


def run(
    generator: Generator, problem: Problem, given: argparse.Namespace, seed: int
) -> dict[str, Outcome]:
    """Return what each system has written for a problem."""
    public, _ = halves(problem.tests)
    judge = scorer(problem, public, given.allow_code_execution)
    final = scorer(problem, problem.tests, given.allow_code_execution)
    assert generator.tokenizer is not None
    [end] = generator.tokenizer.encode("\n")[-1:]
    options = {
        "max_new_tokens": given.max_new_tokens,
        "stop_token_ids": (end,),
        "seed": seed,
    }
    count = given.rollouts
    systems = {
        "PG-TD": f"pg-td(rollouts={count})",
        "PG-TD, equal priors": f"pg-td(rollouts={count},prior=uniform)",
        "sampling and choosing": f"best-of-n(samples={count})",
    }
    found: dict[str, Outcome] = {}
    known: dict[str, float] = {}

    def reward(text: str) -> float:
        if text not in known:  # each system judges each of its texts; they are run once
            known[text] = judge.score("", [text])[0]
        return known[text]

    for name, strategy in systems.items():
        warmth = {"temperature": 0.8} if "best-of-n" in strategy else {}
        one = generator.search(
            strategy, EXAMPLES + problem.header, scorer=reward, **options, **warmth
        )
        solved = all(final.passed(one.text))
        texts = len({candidate.text for candidate in one.candidates})
        found[name] = Outcome(solved, one.best.score, one.tokens, texts)
        if name == "PG-TD":
            first = next(own for own in one.candidates if own.about["found"] == 0)
            solved = all(final.passed(first.text))
            found["greedy"] = Outcome(solved, reward(first.text), len(first.token_ids), 1)
    return found


def main() -> None:
    """Write all functions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--rollouts", type=int, default=12)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--allow-code-execution", action="store_true")
    given = parser.parse_args()
    generator = load(given.model, threads=given.threads)
    problems, begun = easiest(given.problems, given.count), perf_counter()
    rows: list[dict[str, Outcome]] = []
    for number, problem in enumerate(track(problems)):
        if perf_counter() - begun > given.seconds:
            break
        rows.append(run(generator, problem, given, number))
    print("| | solved | public tests | tokens | distinct texts |\n|---|--:|--:|--:|--:|")
    for name in rows[0]:
        own = [row[name] for row in rows]
        means = [
            float(np.mean([getattr(one, field) for one in own]))
            for field in ("solved", "public", "tokens", "texts")
        ]
        print(f"| {name} | {means[0]:.2f} | {means[1]:.2f} | {means[2]:.0f} | {means[3]:.1f} |")
    for other in ("PG-TD, equal priors", "sampling and choosing", "greedy"):
        for field in ("solved", "public"):
            differences = [
                float(getattr(row["PG-TD"], field)) - float(getattr(row[other], field))
                for row in rows
            ]
            low, high = interval(differences)
            shown = f"{np.mean(differences):+.2f} [{low:+.2f}, {high:+.2f}]"
            print(f"{field}, PG-TD minus {other}: {shown}")
    print(f"{len(rows)} problems; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
