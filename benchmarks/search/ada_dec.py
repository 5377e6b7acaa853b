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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import zstandard
from benchmarks.long_inputs.intervals import bootstrap
from rich.progress import track

from outrider import Generator, load
from outrider.search import Candidate, Search, Task
from outrider.search.steps.ada_dec import mean_logprob
from outrider.search.steps.lookahead import best_tokens, entropies, look_ahead
from outrider.search.steps.threshold import Observation, fitted, observed
from outrider.search.tree import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced(Search):
    """Reads a given solution, and tells what each look-ahead chooses at its uncertain positions."""

    solution: Sequence[int]
    theta: float
    branches: int
    lookaheads: Sequence[int]

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return one result whose `about` holds a list for each uncertain position: whether the
        reference token is among the candidates, and for each look-ahead whether it is chosen."""
        tree = task.tree()
        first = tree.first()[None]
        logits = torch.cat((first, tree.read(tree.root, self.solution[:-1])))
        places: list[Node] = [tree.root]
        node: Node | None = tree.newest
        read: list[Node] = []
        while node is not None and node.parent is not None:
            read.append(node)
            node = node.parent
        places += reversed(read)
        texts = [self.solution[:i] for i in range(len(self.solution))]
        logprobs = task.logprobs(logits, texts)
        found: list[list[int]] = []
        at = [i for i, entropy in enumerate(entropies(logprobs)) if entropy >= self.theta]
        tops = {i: best_tokens(logprobs[i], self.branches) for i in at}
        chosen: dict[int, list[int]] = {i: [tops[i][0]] for i in at}
        for length in self.lookaheads:
            steps = [(places[i], token) for i in at for token in tops[i]]
            ahead = look_ahead(task, tree, steps, length)
            for number, i in enumerate(at):
                own = ahead[number * self.branches : (number + 1) * self.branches]
                best = max(
                    own, key=lambda one: mean_logprob(one, float(logprobs[i, one.tokens[0]]))
                )
                chosen[i].append(best.tokens[0])
        for i in at:
            right = self.solution[i]
            found.append([int(right in tops[i]), *(int(token == right) for token in chosen[i])])
        return [task.candidate(self.solution, 0.0, logprob=0.0, found=found)]


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
    """Fit, judge, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--longest", type=int, default=160, help="tokens of a solution")
    parser.add_argument("--branches", type=int, default=3)
    parser.add_argument("--lookaheads", type=int, nargs="+", default=[1, 5, 10])
    given = parser.parse_args()
    generator = load(given.model, threads=1)
    model = generator.strategy.stage.model
    pairs = [encoded(generator, problem) for problem in opened(given.problems)]
    pairs = [pair for pair in pairs if 5 <= len(pair[1]) <= given.longest][: given.count]
    seen: list[list[Observation]] = [observed(model, *pair) for pair in track(pairs)]
    thetas: list[float] = []
    for half in (0, 1):
        fit = fitted([one for i, own in enumerate(seen) if i % 2 == half for one in own])
        print(f"half {half}: theta {fit.theta:.3f}, accuracy {fit.accuracy:.2f}")
        thetas.append(fit.theta)
    rows: list[list[int]] = []
    groups: list[str] = []
    for number, (prompt, solution) in enumerate(track(pairs)):
        own = Forced(
            solution=solution,
            theta=thetas[1 - number % 2],
            branches=given.branches,
            lookaheads=given.lookaheads,
        )
        found = generator.search(own, prompt, max_new_tokens=len(solution) + 64)
        told = found.best.about["found"]
        assert isinstance(told, list)
        rows += told  # pyright: ignore[reportArgumentType]
        groups += [str(number)] * len(told)
    total = sum(len(solution) for _, solution in pairs)
    wrong = [
        one.entropy >= thetas[1 - i % 2] for i, s in enumerate(seen) for one in s if not one.right
    ]
    print(
        f"{len(pairs)} solutions, {total} tokens, {len(rows)} of them ({len(rows) / total:.1%}) at "
        f"high entropy, which hold {sum(wrong) / len(wrong):.0%} of the tokens that greedy "
        "decoding gets wrong"
    )
    names = ["reference among the candidates", "look-ahead 0 (greedy)"]
    names += [f"look-ahead {length}" for length in given.lookaheads]
    print("| | share equal to the reference | minus greedy |\n|---|---|---|")
    for column, name in enumerate(names):
        share = bootstrap([row[column] for row in rows], groups)
        more = bootstrap([row[column] - row[1] for row in rows], groups)
        print(
            f"| {name} | {share[0]:.3f} [{share[1]:.3f}, {share[2]:.3f}] "
            f"| {more[0]:+.3f} [{more[1]:+.3f}, {more[2]:+.3f}] |"
        )
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
