"""pass@1 of AdaDec and of cautious next token prediction on the easiest functions of HumanEval and
MBPP, beside systems of equal cost and with the idea of each switched off.

    python -m benchmarks.search.solving smollm2 --problems mbpp_sanitized.jsonl.zst \
        --rows mbpp.jsonl --allow-code-execution

The model writes the body of a function; a token that is a single line break ends it. A problem is
solved if the function passes all tests, which run in a sandbox (bubblewrap). The easiest problems
are those with the shortest reference solutions. One in six is left out: on those, the threshold of
AdaDec is fitted as the paper does, and `--left-out` measures greedy decoding only, to choose the
form of the prompt. `beam` has as many beams, and `most probable sample` as many samples, as the
computed tokens of AdaDec and of `cntp` pay for. `greedy` is AdaDec without its look-ahead, and
`one sample` is `cntp` with one trial. Rows are appended to `--rows`; problems that it holds are not
run again. Intervals draw problems.
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
from benchmarks.search.intervals import difference, shown
from benchmarks.search.problems import FORMS, Written, encoded, left_out, measured, opened
from rich.progress import track

from outrider import Generator, load
from outrider.search import SearchResult
from outrider.search.steps.threshold import fitted, observed

PAIRS = (
    ("ada-dec", "greedy"),
    ("ada-dec", "beam"),
    ("cntp", "one sample"),
    ("cntp", "most probable sample"),
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

    def all_of(self, problem: Written) -> dict[str, Outcome]:
        """Run all systems on a problem."""
        seeds = self.given.seeds
        self.judged = {}
        found = {"greedy": self.outcome(problem, "ada-dec(lookahead=0)")}
        if self.given.left_out:
            return found
        theta = f"theta={self.theta:.3f}"
        found["ada-dec"] = self.outcome(problem, f"ada-dec({theta})")
        beams = max(round(found["ada-dec"].tokens / float(np.mean(self.beam_rows))), 2)
        found["beam"] = self.outcome(problem, f"beam(num_beams={beams})")
        self.beam_rows.append(found["beam"].tokens / beams)
        warps: dict[str, Any] = {"temperature": self.given.temperature, "top_p": 0.9}
        found["cntp"] = self.outcome(problem, "cntp", seeds, **warps)
        found["one sample"] = self.outcome(problem, "cntp(trials=1)", seeds, **warps)
        self.sample_rows.append(found["one sample"].tokens)
        samples = max(round(found["cntp"].tokens / float(np.mean(self.sample_rows))), 1)
        name = f"best-of-n(samples={samples})"
        found["most probable sample"] = self.outcome(problem, name, seeds, **warps)
        return found


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
    """Print the table and the paired differences."""
    names = list(rows[0])

    def column(name: str, field: str) -> list[float]:
        return [float(row[name][field]) for row in rows]

    print(
        "| | solved | [95 %] | computed tokens | processor seconds | tokens of the text |"
        " mean log p | same text as greedy |\n|---|--:|---|--:|--:|--:|--:|--:|"
    )
    for name in names:
        mean, low, high = bootstrap(column(name, "passed"))
        tokens, seconds, length, logprob = (
            float(np.mean(column(name, field)))
            for field in ("tokens", "seconds", "length", "logprob")
        )
        same = sum(row[name]["text"] == row["greedy"]["text"] for row in rows)
        print(
            f"| {name} | {mean:.3f} | [{low:.3f}, {high:.3f}] | {tokens:.0f} | {seconds:.2f} |"
            f" {length:.0f} | {logprob:.2f} | {same} of {len(rows)} |"
        )
    for ours, theirs in PAIRS if "cntp" in names else ():
        solved = difference(column(ours, "passed"), column(theirs, "passed"))
        print(f"solved, {ours} minus {theirs}: {shown(solved)}")
    print(f"{len(rows)} problems; load average {os.getloadavg()[0]:.1f}")


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
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--allow-code-execution", action="store_true")
    given = parser.parse_args()
    begun = perf_counter()
    generator = load(given.model, drafter="none", threads=1)
    problems = opened(given.problems)
    rows: dict[str, dict[str, Any]] = {}
    if given.rows.exists():
        lines = given.rows.read_text().splitlines()
        rows = {one["problem"]: one["systems"] for one in map(json.loads, lines)}
    theta = 0.0 if given.left_out else threshold(generator, left_out(problems), given.form)
    runner = Runner(generator, given, theta)
    if not given.left_out:
        runner.sample_rows += [row["one sample"]["tokens"] for row in rows.values()]
    picked = left_out(problems) if given.left_out else measured(problems)
    for problem in track(picked[: given.count]):
        if perf_counter() - begun > given.seconds:
            break
        if problem.name in rows:
            continue
        found = {name: asdict(one) for name, one in runner.all_of(problem).items()}
        rows[problem.name] = found
        with given.rows.open("a") as file:
            file.write(json.dumps({"problem": problem.name, "systems": found}) + "\n")
    table(list(rows.values()))


if __name__ == "__main__":
    main()
