"""pass@1 of AdaDec and of cautious next token prediction on the easiest functions of HumanEval and
MBPP, beside systems of equal cost and with the idea of each switched off.

    python -m benchmarks.search.functions.solving smollm2 --problems mbpp_sanitized.jsonl.zst \
        --rows mbpp.jsonl --allow-code-execution

The model writes the body of a function; a token that is a single line break ends it. A problem is
solved if the function passes all tests, which run in a sandbox (bubblewrap). The easiest problems
are those with the shortest reference solutions. One in six is left out: on those, the threshold of
AdaDec is fitted as the paper does, and `--left-out --groups` (no group) measures greedy decoding
only, to choose the form of the prompt. `beam` has as many beams, and `most probable sample` as many
samples, as the computed tokens of AdaDec and of `cntp` pay for. `greedy` is AdaDec without its
look-ahead, and `one sample` is `cntp` with one trial. Rows are appended to `--rows`; systems that
it holds for a problem are not run again. Intervals draw problems.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.functions.problems import FORMS, Written, encoded, left_out, measured, opened
from benchmarks.search.intervals import difference, shown
from rich.progress import track

from outrider import Generator, load
from outrider.search import SearchResult
from outrider.search.steps.threshold import fitted, observed

SAMPLES = "most probable sample"
NAMES = ("greedy", "ada-dec", "beam", "cntp", "one sample", SAMPLES)
PAIRS = (
    ("ada-dec", "greedy"),
    ("ada-dec", "beam"),
    ("cntp", "one sample"),
    ("cntp", SAMPLES),
    ("cntp", "greedy"),
    ("cntp", "ada-dec"),
)


@dataclass(frozen=True)
class Outcome:
    """What a system has written for a problem, as means over its runs.

    Attributes:
        passed: whether it passes all tests.
        tokens: rows that the model computed after the prompt.
        seconds: of the processor, the reading of the prompt included.
        logprob: mean log-probability of a token under the model.
        length: tokens of the text.
        text: of the first run.
    """

    passed: float
    tokens: float
    seconds: float
    logprob: float
    length: float
    text: str


@dataclass
class Runner:
    """Runs systems on problems.

    Attributes:
        generator: the model.
        given: the options.
        theta: threshold of AdaDec.
        sample_rows: rows of each single sample so far, which say how many a budget pays for.
        beam_rows: rows of a beam so far, for the same.
        judged: texts for the present problem, and whether they pass.
    """

    generator: Generator
    given: argparse.Namespace
    theta: float
    sample_rows: list[float] = field(default_factory=lambda: [30.0] * 4)
    beam_rows: list[float] = field(default_factory=lambda: [20.0] * 4)
    judged: dict[str, bool] = field(default_factory=dict[str, bool])

    def outcome(self, problem: Written, strategy: str, seeds: int = 1, **warps: Any) -> Outcome:
        """Run one system as often as `seeds` says."""
        assert self.generator.tokenizer is not None
        [end] = self.generator.tokenizer.encode("\n")[-1:]
        runs: list[SearchResult] = []
        begun = process_time()
        for seed in range(seeds):
            own = self.generator.search(
                strategy,
                problem.prompt(self.given.form),
                max_new_tokens=self.given.tokens,
                stop_token_ids=(end,),
                seed=seed,
                **warps,
            )
            runs.append(own)
        seconds = (process_time() - begun) / seeds
        allowed = self.given.allow_code_execution
        for text in {own.text for own in runs} - set(self.judged):
            self.judged[text] = problem.passes(text, allow_code_execution=allowed)
        passed = [self.judged[own.text] for own in runs]
        lengths = [len(own.best.token_ids) for own in runs]
        logprobs = [(own.best.logprob or 0.0) / len(own.best.token_ids) for own in runs]
        return Outcome(
            float(np.mean(passed)),
            float(np.mean([own.tokens for own in runs])),
            seconds,
            float(np.mean(logprobs)),
            float(np.mean(lengths)),
            runs[0].text,
        )

    def add(self, problem: Written, found: dict[str, dict[str, Any]]) -> None:
        """Run the systems of the wanted groups that have not run on a problem."""
        seeds, self.judged = self.given.seeds, {}

        def run(name: str, strategy: str, seeds: int = 1, **warps: Any) -> None:
            found[name] = asdict(self.outcome(problem, strategy, seeds, **warps))

        if "greedy" not in found:
            run("greedy", "ada-dec(lookahead=0)")
        if "ada-dec" in self.given.groups and "beam" not in found:
            run("ada-dec", f"ada-dec(theta={self.theta:.3f})")
            beams = max(round(found["ada-dec"]["tokens"] / float(np.mean(self.beam_rows))), 2)
            run("beam", f"beam(num_beams={beams})")
            self.beam_rows.append(found["beam"]["tokens"] / beams)
        if "cntp" in self.given.groups and SAMPLES not in found:
            warps: dict[str, Any] = {"temperature": self.given.temperature, "top_p": 0.9}
            run("cntp", "cntp", seeds, **warps)
            run("one sample", "cntp(trials=1)", seeds, **warps)
            self.sample_rows.append(found["one sample"]["tokens"])
            count = max(round(found["cntp"]["tokens"] / float(np.mean(self.sample_rows))), 1)
            run(SAMPLES, f"best-of-n(samples={count})", seeds, **warps)


def threshold(generator: Generator, problems: Sequence[Written], form: str) -> float:
    """Return the threshold of AdaDec, fitted on the reference solutions of these problems."""
    pairs = [encoded(generator, problem, form) for problem in problems]
    pairs = [pair for pair in pairs if len(pair[1]) <= 120]
    model = generator.strategy_for(generator.params()).stage.model
    found = fitted([one for pair in pairs for one in observed(model, *pair)])
    print(
        f"theta {found.theta:.3f} from {len(pairs)} other solutions, {found.positions} positions,"
        f" held-out accuracy {found.accuracy:.2f}"
    )
    return found.theta


def table(rows: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """Print the table and the paired differences; each over the problems that have been run."""

    def column(name: str, key: str, other: str = "greedy") -> list[float]:
        return [float(row[name][key]) for row in rows if name in row and other in row]

    print(
        "| | solved | [95 %] | computed tokens | processor seconds | tokens of the text |"
        " mean log p | same text as greedy |\n|---|--:|---|--:|--:|--:|--:|--:|"
    )
    for name in NAMES:
        if not column(name, "passed"):
            continue
        mean, low, high = bootstrap(column(name, "passed"))
        tokens, seconds, length, logprob = (
            float(np.mean(column(name, key))) for key in ("tokens", "seconds", "length", "logprob")
        )
        own = [row for row in rows if name in row]
        same = sum(row[name]["text"] == row["greedy"]["text"] for row in own)
        print(
            f"| {name} | {mean:.3f} | [{low:.3f}, {high:.3f}] | {tokens:.0f} | {seconds:.2f} |"
            f" {length:.0f} | {logprob:.2f} | {same} of {len(own)} |"
        )
    for ours, theirs in PAIRS:
        pair = (column(ours, "passed", theirs), column(theirs, "passed", ours))
        if pair[0]:
            more = shown(difference(*pair))
            print(f"solved, {ours} minus {theirs}: {more} ({len(pair[0])} problems)")
    print(f"load average {os.getloadavg()[0]:.1f}")


def main() -> None:
    """Write all functions and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--form", choices=FORMS, default="solved")
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--temperature", type=float, default=1.2)
    parser.add_argument("--seeds", type=int, default=1, help="runs of systems that sample")
    parser.add_argument("--seconds", type=float, default=540, help="begins no problem after them")
    parser.add_argument("--groups", nargs="*", default=["ada-dec", "cntp"])
    parser.add_argument("--left-out", action="store_true", help="measure these; give no groups")
    parser.add_argument("--allow-code-execution", action="store_true")
    given = parser.parse_args()
    begun = perf_counter()
    generator = load(given.model, drafter="none", threads=1)
    problems = opened(given.problems)
    rows: dict[str, dict[str, Any]] = {}
    if given.rows.exists():
        for line in given.rows.read_text().splitlines():
            one = json.loads(line)
            rows[one["problem"]] = one["systems"]  # a later line holds all of an earlier one
    paused = "ada-dec" in given.groups
    theta = threshold(generator, left_out(problems), given.form) if paused else 0.0
    runner = Runner(generator, given, theta)
    for row in rows.values():
        runner.sample_rows += [row["one sample"]["tokens"]] if SAMPLES in row else []
    picked = left_out(problems) if given.left_out else measured(problems)
    for problem in track(picked[: given.count]):
        if perf_counter() - begun > given.seconds:
            break
        found = rows.setdefault(problem.name, {})
        before = len(found)
        runner.add(problem, found)
        if len(found) > before:
            with given.rows.open("a") as file:
                file.write(json.dumps({"problem": problem.name, "systems": found}) + "\n")
    table(list(rows.values()))


if __name__ == "__main__":
    main()
