"""Functions to write, of HumanEval and MBPP, with their tests; those with short solutions first."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.search.pg_td import EXAMPLES, problem_of

from outrider import Generator
from outrider.search.scorers.programs import ProgramScorer
from outrider.training.core.corpus import read_records

FORMS = ("solved", "plain", "chat")
"""How a problem is shown: after two solved ones, alone, or as a begun answer in a conversation."""
LEFT_OUT = 6
"""One of so many problems is not measured: it serves for choices, such as that of a threshold."""


@dataclass(frozen=True)
class Written:
    """A function to write.

    Attributes:
        name: of the problem.
        header: its first lines, without the line break behind them.
        solution: what is written after that line break.
        test: statements that fail for a wrong function.
    """

    name: str
    header: str
    solution: str
    test: str

    def passes(self, text: str, *, allow_code_execution: bool) -> bool:
        """Return whether the function with this body passes all tests."""
        judge = ProgramScorer(
            (self.test,), allow_code_execution=allow_code_execution, before=self.header
        )
        return judge.passed(text)[0]

    def prompt(self, form: str) -> str:
        """Return what the model continues."""
        if form == "plain":
            return self.header
        if form == "solved":
            return EXAMPLES + self.header
        return (
            "<|im_start|>user\nComplete this Python function.\n```python\n"
            f"{self.header}\n```<|im_end|>\n<|im_start|>assistant\n```python\n{self.header}"
        )


def opened(path: Path) -> list[Written]:
    """Return all problems of a file of HumanEval (.gz) or of MBPP, the shortest solutions first."""
    found: list[Written] = []
    if path.suffix == ".gz":
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            one = json.loads(line)
            test = f"{one['test']}\ncheck({one['entry_point']})"
            header = one["prompt"].rstrip()
            found.append(Written(one["task_id"], header, one["canonical_solution"], test))
    else:
        for record in read_records(path):
            known = problem_of(record)
            if known is not None:
                test = "\n".join(known.tests)
                body = indented(known.solution)
                found.append(Written(record["task_id"], known.header, body, test))
    return sorted(found, key=lambda problem: len(problem.solution))


def indented(body: str) -> str:
    """Return a body with four spaces for each step: in MBPP, many have two below a description with
    four, which is no Python."""
    lines = [line.rstrip() for line in body.splitlines() if line.strip()]
    step = len(lines[0]) - len(lines[0].lstrip())
    widths = [len(line) - len(line.lstrip()) for line in lines]
    return "".join(
        f"{' ' * (width * 4 // max(step, 1))}{line.lstrip()}\n"
        for width, line in zip(widths, lines, strict=True)
    )


def measured(problems: list[Written]) -> list[Written]:
    """Return the problems that are measured."""
    return [one for number, one in enumerate(problems) if number % LEFT_OUT]


def left_out(problems: list[Written]) -> list[Written]:
    """Return the problems that are not measured."""
    return problems[::LEFT_OUT]


def encoded(generator: Generator, problem: Written, form: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of the reference solution, encoded as one text. The
    solution ends with the token that ends a function."""
    assert generator.tokenizer is not None
    prompt = problem.prompt(form)
    alone = list(generator.tokenizer.encode(prompt))
    text = f"{prompt}\n{problem.solution.strip(chr(10)).rstrip()}\n"
    whole = list(generator.tokenizer.encode(text))
    assert whole[: len(alone)] == alone
    return alone, whole[len(alone) :]
