"""USCD on functions of MBPP (asserts as examples) or HumanEval (doctests), beside the model alone.

    python -m benchmarks.guidance.uscd smollm2 --problems mbpp_sanitized.jsonl.zst \
        --allow-code-execution

The problems with the shortest solutions are written after two solved ones; MBPP's descriptions hold
`--shown` of their asserts. A token that is a single line break ends a function. A function counts
as solved if it passes all tests in a sandbox. Each system writes greedily, and `--samples` times at
a temperature of 0.8 with the same seeds; an interval draws problems. `without examples` is the
model after the lame prompt alone. With `--rows FILE`, a later call goes on with the next problems.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from benchmarks.search.functions.problems import Written, opened
from benchmarks.search.intervals import difference, shown
from jaxtyping import Bool, Float
from torch import Tensor

from outrider import Generator, load
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Weighted
from outrider.guidance.prompts.examples import without_examples
from outrider.guidance.prompts.uscd import Uncertain, Uscd

EXAMPLES = '''def square_plus_one(n):
    """Write a function to find the square of a number plus one.
    assert square_plus_one(3) == 10
    """
    return n * n + 1

def last_of(items):
    """Write a function to return the last element of a list.
    assert last_of([4, 7]) == 7
    """
    return items[-1]

'''

SYSTEMS = {
    "plain": Uscd(strength=0.0),
    "USCD": Uscd(),
    "gate off": Uscd(confident=1.0),
    "floor off": Uscd(floor=0.0),
    "strength 0.3": Uscd(strength=0.3),
}
"""Recipes of the systems; `without examples` and `strength 0` are added to them."""


@dataclass
class Counted:
    """The gate, with a count of the rows that it has seen and let through."""

    gate: Uncertain
    seen: int = 0
    through: int = 0

    def __call__(self, logits: Float[Tensor, "rows vocab"]) -> Bool[Tensor, " rows"]:
        """Return the rows that are uncertain."""
        found = self.gate(logits)
        self.seen += len(found)
        self.through += int(found.sum())
        return found


@dataclass(frozen=True)
class System:
    """A generator, whether it reads the lame prompt alone, and its gate."""

    generator: Generator
    lame: bool = False
    gate: Counted | None = None


@dataclass(frozen=True)
class Row:
    """What a system has written for a problem: greedily first, and whether it passes the tests.

    `seen` and `through` are the rows of the gate of a whole batch, at its first problem.
    """

    problem: str
    system: str
    solved: list[float]
    texts: list[str]
    seconds: float
    seen: int
    through: int


def systems_of(model: str, threads: int) -> dict[str, System]:
    """Load the model once, and build all systems on it."""
    base = load(model, threads=threads, mode="none")
    target, codec = base.strategy.target, base.tokenizer
    found = {"plain": System(base), "without examples": System(base, lame=True)}
    kinds = {**SYSTEMS, "strength 0": SYSTEMS["plain"]}
    for name, recipe in kinds.items():
        if name == "plain":
            continue
        made = load(target, guidance=recipe, mode="none", threads=threads, tokenizer=codec)
        made.defaults = base.defaults
        mixed, gate = made.strategy.target, None
        assert isinstance(mixed, Mixed) and isinstance(mixed.mixer, Weighted)
        if isinstance(mixed.mixer.gate, Uncertain):
            gate = Counted(mixed.mixer.gate)
            mixed.mixer = replace(mixed.mixer, gate=gate)
        found[name] = System(made, gate=gate)
    return found


def prompt_of(problem: Written, asserts: int) -> str:
    """Return what the model continues: two solved functions and the header, with its examples."""
    tests = problem.test.splitlines()[:asserts]
    header = problem.header
    if ">>>" not in header and all(line.startswith("assert") for line in tests):
        header = re.sub(r'"""$', "", header)
        header = "\n    ".join([header.rstrip(), *tests, '"""'])
    return EXAMPLES + header


def written(system: System, prompts: Sequence[str], options: dict[str, Any]) -> list[str]:
    """Return the texts of a system."""
    given = [without_examples(one) or one for one in prompts] if system.lame else list(prompts)
    assert all(isinstance(one, str) for one in given)
    codec = system.generator.tokenizer
    assert codec is not None
    [end] = codec.encode("\n")[-1:]
    results = system.generator.generate(given, stop_token_ids=(end,), **options)
    return [result.text for result in results]


def counted(system: System) -> tuple[int, int]:
    """Return how many rows the gate has seen and let through so far."""
    return (system.gate.seen, system.gate.through) if system.gate else (0, 0)


def measured(
    name: str, system: System, problems: Sequence[Written], given: argparse.Namespace
) -> list[Row]:
    """Let a system write some functions, and judge them."""
    prompts = [prompt_of(problem, given.shown) for problem in problems]
    options = {"max_new_tokens": given.max_new_tokens, "temperature": 0.0}
    before, seen = process_time(), counted(system)
    drawn = [written(system, prompts, options)]
    for i in range(given.samples if name != "strength 0" else 0):
        drawn.append(written(system, prompts, {**options, "temperature": 0.8, "seed": i}))
    seconds, now = process_time() - before, counted(system)
    rows: list[Row] = []
    for place, problem in enumerate(problems):
        texts = [own[place] for own in drawn]
        allowed = given.allow_code_execution
        judged = {text: problem.passes(text, allow_code_execution=allowed) for text in set(texts)}
        marks = [float(judged[text]) for text in texts]
        share = seconds / len(problems)
        first = place == 0
        rows.append(
            Row(
                problem=problem.name,
                system=name,
                solved=marks,
                texts=texts,
                seconds=share,
                seen=now[0] - seen[0] if first else 0,
                through=now[1] - seen[1] if first else 0,
            )
        )
    return rows


def main() -> None:
    """Write all functions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--shown", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="a file of rows; problems in it are skipped")
    parser.add_argument("--allow-code-execution", action="store_true")
    given = parser.parse_args()
    begun = perf_counter()
    rows: list[Row] = []
    if given.rows is not None and given.rows.exists():
        rows = [Row(**json.loads(line)) for line in given.rows.read_text().splitlines()]
    done = {row.problem for row in rows}
    problems = [one for one in opened(given.problems)[: given.count] if one.name not in done]
    systems = systems_of(given.model, given.threads) if problems else {}
    for start in range(0, len(problems), given.batch):
        if perf_counter() - begun > given.seconds:
            break
        some = problems[start : start + given.batch]
        fresh = [r for name, own in systems.items() for r in measured(name, own, some, given)]
        rows += fresh
        if given.rows is not None:
            with given.rows.open("a") as out:
                out.writelines(json.dumps(asdict(row)) + "\n" for row in fresh)
    show(rows)


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    by_system: dict[str, list[Row]] = {}
    for row in rows:
        by_system.setdefault(row.system, []).append(row)
    plain = by_system["plain"]
    print("| | greedy | minus plain | at 0.8 | minus plain | steps contrasted | processor s |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, own in by_system.items():
        cells = [name]
        for mean in (lambda row: row.solved[0], lambda row: float(np.mean(row.solved[1:]))):
            if len(own[0].solved) == 1 and len(cells) > 1:
                cells += ["", ""]
                continue
            ours, theirs = [mean(row) for row in own], [mean(row) for row in plain]
            cells += [f"{np.mean(ours):.3f}", shown(difference(ours, theirs))]
        seen, through = sum(row.seen for row in own), sum(row.through for row in own)
        share = f"{through / seen:.2f}" if seen else "1.00" if name == "gate off" else "0"
        print(f"| {' | '.join(cells)} | {share} | {sum(row.seconds for row in own):.0f} |")
    pairs = zip(plain, by_system["strength 0"], strict=True)
    same = sum(a.texts[0] == b.texts[0] for a, b in pairs)
    print(f"{len(plain)} problems; strength 0 writes the text of plain for {same} of them")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
