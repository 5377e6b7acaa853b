"""A*-Decoding beside best of n at an equal number of computed tokens, on chains of additions.

    python -m benchmarks.search.a_star smollm2 --problems 24 --noise 0.15

A problem is a list of numbers, and its solution adds them one after another, a line for each step.
A rule judges partial solutions: the share of lines before the first wrong one. With `--noise`, the
rule takes a line for the opposite with this probability, as an imperfect reward model does; the
same line of the same problem is always judged alike. For each problem, A* runs first; best of n
then gets as many samples as fill the tokens that A* has computed, the last of them whole, and the
same rule chooses. Without the heuristic, all rewards are equal. An interval draws problems. No
problem begins after `--seconds`.
"""

import argparse
import os
import random
import re
import zlib
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
from benchmarks.long_inputs.intervals import bootstrap
from rich.progress import track

from outrider import Generator, load
from outrider.core.types import Message
from outrider.search import SearchResult

EXAMPLES = ([6, 3, 8, 5], [4, 9, 7, 2])
LINE = re.compile(r"(\d+) \+ (\d+) = (\d+)")
ANSWER = re.compile(r"Answer: (\d+)")


def solution(numbers: Sequence[int]) -> list[str]:
    """Return the lines of the solution."""
    total, lines = numbers[0], list[str]()
    for number in numbers[1:]:
        lines.append(f"{total} + {number} = {total + number}")
        total += number
    return [*lines, f"Answer: {total}"]


def conversation(numbers: Sequence[int]) -> list[Message]:
    """Return two solved problems and this one, as chat messages."""
    messages: list[Message] = []
    for own in (*EXAMPLES, numbers):
        listed = ", ".join(map(str, own))
        messages.append({"role": "user", "content": f"Add these numbers in turn: {listed}"})
        messages.append({"role": "assistant", "content": "\n".join(solution(own))})
    return messages[:-1]


def judge(numbers: Sequence[int], noise: float) -> Callable[[str], float]:
    """Return the rule that judges a partial solution of a problem."""
    right = solution(numbers)

    def reward(text: str) -> float:
        lines = text.strip().split("\n")
        good = 0
        for number, line in enumerate(lines):
            key = f"{numbers}{number}{line.strip()}".encode()
            flipped = zlib.crc32(key) / 2**32 < noise
            if (number < len(right) and line.strip() == right[number]) == flipped:
                break
            good += 1
        return good / len(lines)

    return reward


def solved(text: str, numbers: Sequence[int]) -> bool:
    """Whether a text ends with the right sum."""
    answers = ANSWER.findall(text)
    return bool(answers) and int(answers[-1]) == sum(numbers)


def same_tokens(pool: SearchResult, tokens: int, reward: Callable[[str], float]) -> str:
    """Return the best of the first samples that fill this many tokens, by the rule."""
    drawn = sorted(pool.candidates, key=lambda one: int(str(one.about["sample"])))
    used, chosen = 0, list[str]()
    for one in drawn:
        if used >= tokens:
            break
        used += len(one.token_ids)
        chosen.append(one.text)
    return max(chosen, key=reward)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    _, low, high = bootstrap(differences)
    return low, high


def run(
    generator: Generator, numbers: Sequence[int], given: argparse.Namespace, seed: int
) -> dict[str, tuple[bool, int, int]]:
    """Return, for each system, whether it solves the problem, its tokens and its judged texts."""
    reward = judge(numbers, given.noise)
    prompt, found = conversation(numbers), dict[str, tuple[bool, int, int]]()
    options = {"temperature": 0.8, "max_new_tokens": given.max_new_tokens, "seed": seed}
    search = f"a-star(children={given.children},nodes={given.nodes}"
    systems = {
        "A*": (search + ")", reward),
        "A*, no heuristic": (search + ")", lambda text: 0.5),
    }
    if given.both_costs:
        systems["A*, cost=rise"] = (search + ",cost=rise)", reward)
    for name, (strategy, scorer) in systems.items():
        one = generator.search(strategy, prompt, scorer=scorer, delimiter="\n", **options)
        found[name] = (solved(one.text, numbers), one.tokens, one.scorer_calls)
    pool = generator.search(f"best-of-n(samples={given.samples})", prompt, **options)
    for name in list(found):
        tokens = found[name][1]
        text = same_tokens(pool, tokens, reward)
        found[f"best of n at the tokens of {name}"] = (solved(text, numbers), tokens, 0)
    sample = min(pool.candidates, key=lambda one: int(str(one.about["sample"])))
    found["one sample"] = (solved(sample.text, numbers), len(sample.token_ids), 0)
    if pool.tokens < max(found[name][1] for name in systems):
        print(f"best of n ran out of samples: {pool.tokens} tokens")
    return found


def main() -> None:
    """Solve all problems and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--addends", type=int, default=4)
    parser.add_argument("--below", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--children", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=24)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--both-costs", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    generator = load(given.model, threads=given.threads)
    draw, begun = random.Random(7), perf_counter()
    rows: list[dict[str, tuple[bool, int, int]]] = []
    for number in track(range(given.problems)):
        if perf_counter() - begun > given.seconds:
            break
        numbers = [draw.randrange(2, given.below) for _ in range(given.addends)]
        rows.append(run(generator, numbers, given, number))
    print("| | solved | tokens | judged texts |\n|---|--:|--:|--:|")
    for name in rows[0]:
        share = np.mean([row[name][0] for row in rows])
        tokens, calls = (np.mean([row[name][i] for row in rows]) for i in (1, 2))
        print(f"| {name} | {share:.2f} | {tokens:.0f} | {calls:.1f} |")
    for name in [name for name in rows[0] if f"best of n at the tokens of {name}" in rows[0]]:
        other = f"best of n at the tokens of {name}"
        differences = [float(row[name][0]) - float(row[other][0]) for row in rows]
        low, high = interval(differences)
        mean = np.mean(differences)
        print(f"{name} minus best of n: {mean:+.2f} [{low:+.2f}, {high:+.2f}]")
    print(f"{len(rows)} problems, noise {given.noise}; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
