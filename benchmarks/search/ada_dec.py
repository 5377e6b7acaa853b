"""AdaDec on reference solutions: how often its choice at high entropy is the reference token.

    python -m benchmarks.search.ada_dec smollm2 --problems HumanEval.jsonl.gz --count 80

A line of the file is a problem with `prompt` and `canonical_solution`. The threshold is fitted on
one half of the problems and judged on the other, and the other way round. Solutions are given
(teacher forcing); where the entropy reaches the threshold, each choice is made from the given text.
`look-ahead 0` is the choice of greedy decoding. Intervals (95 %) draw whole problems; differences
are paired by position.
"""

import argparse
import gzip
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import zstandard
from benchmarks.long_inputs.intervals import bootstrap
from rich.progress import track

from outrider import Generator, load
from outrider.search import Candidate, Search, Task
from outrider.search.steps.lookahead import best_tokens, entropies, look_ahead
from outrider.search.steps.threshold import Observation, fitted
from outrider.search.tree import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced(Search):
    """Reads a given solution, and looks ahead at its uncertain positions."""

    solution: Sequence[int]
    lowest: float
    branches: int
    lookaheads: Sequence[int]

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return one result. Its `about` holds a list for each position: the entropy and whether
        the best token is right; from `lowest` on also whether the reference is a candidate, and
        for each look-ahead whether it is chosen."""
        tree = task.tree()
        first = tree.first()[None]
        logits = torch.cat((first, tree.read(tree.root, self.solution[:-1])))
        places: list[Node] = [tree.newest]
        while (before := places[-1].parent) is not None:
            places.append(before)
        places.reverse()
        texts = [self.solution[:i] for i in range(len(self.solution))]
        logprobs = task.logprobs(logits, texts)
        found: list[list[float]] = []
        steps: list[tuple[Node, int]] = []
        for i, entropy in enumerate(entropies(logprobs)):
            found.append([entropy, float(int(logprobs[i].argmax()) == self.solution[i])])
            if entropy >= self.lowest:
                steps += [(places[i], one) for one in best_tokens(logprobs[i], self.branches)]
        ahead = look_ahead(task, tree, steps, max(self.lookaheads))
        for at in range(0, len(ahead), self.branches):
            own = ahead[at : at + self.branches]
            place = own[0].parent.depth
            right = self.solution[place]
            found[place].append(float(any(one.tokens[0] == right for one in own)))
            for length in self.lookaheads:
                means = [
                    float(logprobs[place, one.tokens[0]]) + sum(one.logprobs[:length])
                    for one in own
                ]
                means = [
                    total / (1 + len(one.logprobs[:length]))
                    for total, one in zip(means, own, strict=True)
                ]
                best = own[means.index(max(means))]
                found[place].append(float(best.tokens[0] == right))
        return [task.candidate(self.solution, 0.0, found=found)]


def opened(path: Path) -> list[dict[str, str]]:
    """Read the problems."""
    raw = path.read_bytes()
    text = (
        gzip.decompress(raw)
        if path.suffix == ".gz"
        else zstandard.ZstdDecompressor().stream_reader(raw).read()
    )
    return [json.loads(line) for line in text.decode().splitlines() if line]


def encoded(generator: Generator, problem: dict[str, str]) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of its solution, encoded as one text."""
    assert generator.tokenizer is not None
    alone = list(generator.tokenizer.encode(problem["prompt"]))
    whole = list(generator.tokenizer.encode(problem["prompt"] + problem["canonical_solution"]))
    count = 0
    while count < len(alone) and alone[count] == whole[count]:
        count += 1
    return whole[:count], whole[count:]


def main() -> None:
    """Look ahead along the solutions, fit, judge, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--longest", type=int, default=120, help="tokens of a solution")
    parser.add_argument("--prompt", type=int, default=250, help="most tokens of a prompt")
    parser.add_argument("--branches", type=int, default=3)
    parser.add_argument("--lookaheads", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--lowest", type=float, default=0.6, help="entropy from which to look")
    parser.add_argument("--seconds", type=float, default=500, help="begins no problem after them")
    given = parser.parse_args()
    begun = time.perf_counter()
    generator = load(given.model, threads=1)
    pairs = [encoded(generator, problem) for problem in opened(given.problems)]
    pairs = [p for p in pairs if 5 <= len(p[1]) <= given.longest and len(p[0]) <= given.prompt]
    seen: list[list[list[float]]] = []
    for prompt, solution in track(pairs[: given.count]):
        if time.perf_counter() - begun > given.seconds:
            break
        own = Forced(
            solution=solution,
            lowest=given.lowest,
            branches=given.branches,
            lookaheads=given.lookaheads,
        )
        found = generator.search(own, prompt, max_new_tokens=len(solution) + 64)
        seen.append(found.best.about["found"])  # pyright: ignore[reportArgumentType]
    thetas: list[float] = []
    for half in (0, 1):
        places = [place for own in seen[half::2] for place in own]
        fit = fitted([Observation(place[0], bool(place[1])) for place in places])
        print(f"half {half}: theta {fit.theta:.3f}, accuracy {fit.accuracy:.2f}")
        thetas.append(max(fit.theta, given.lowest))
    shown(seen, [thetas[1 - i % 2] for i in range(len(seen))], "fitted", given.lookaheads)
    for theta in (0.6, 1.0, 1.5, 2.0, 2.5):
        if theta >= given.lowest:
            shown(seen, [theta] * len(seen), f"{theta}", given.lookaheads)
    print(f"load average {os.getloadavg()[0]:.1f}")


def shown(
    seen: Sequence[Sequence[Sequence[float]]],
    thetas: Sequence[float],
    name: str,
    lookaheads: Sequence[int],
) -> None:
    """Print the table of one threshold; `thetas` has one for each problem."""
    rows: list[Sequence[float]] = []
    groups: list[str] = []
    wrong: list[bool] = []
    for number, (own, theta) in enumerate(zip(seen, thetas, strict=True)):
        high = [place for place in own if place[0] >= theta]
        rows += high
        groups += [str(number)] * len(high)
        wrong += [place[0] >= theta for place in own if not place[1]]
    total = sum(map(len, seen))
    print(
        f"\ntheta {name}: {len(seen)} solutions, {total} tokens, {len(rows) / total:.1%} of them "
        f"at high entropy, with {sum(wrong) / len(wrong):.0%} of those greedy decoding gets wrong\n"
    )
    print("| choice | share equal to the reference | minus greedy |\n|---|---|---|")
    names = ["look-ahead 0 (greedy)", "best of the candidates"]
    names += [f"look-ahead {length}" for length in lookaheads]
    for column, label in enumerate(names, start=1):
        share = bootstrap([row[column] for row in rows], groups)
        more = bootstrap([row[column] - row[1] for row in rows], groups)
        print(
            f"| {label} | {share[0]:.3f} [{share[1]:.3f}, {share[2]:.3f}] "
            f"| {more[0]:+.3f} [{more[1]:+.3f}, {more[2]:+.3f}] |"
        )


if __name__ == "__main__":
    main()
