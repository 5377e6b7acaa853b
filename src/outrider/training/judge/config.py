"""The configuration of the training of a probe, read from a TOML file."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError, reject_unknown
from outrider.training.heads.prompts import PromptFile

Answer = Callable[[str], str | None]
"""Returns the final answer in a text; None if there is none."""

_NUMBER = re.compile(r"-?\d+(?:[.,/:]\d+)*")
_RANGES: Mapping[str, Range] = {
    "prompts": AT_LEAST_ONE,
    "held_out": AT_LEAST_ONE,
    "measured": Range(0, hint="Give 0 or more prompts"),
    "longest": Range(2, hint="Give at least 2 tokens"),
    "depth": AT_LEAST_ONE,
    "recall": Range(0.0, 1.0, above=True, hint="Give a share above 0 and at most 1, such as 0.9"),
}


def whole_text(text: str) -> str | None:
    """Return the whole text, with each run of spaces as one."""
    return " ".join(text.split()) or None


def last_line(text: str) -> str | None:
    """Return the last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def last_number(text: str) -> str | None:
    """Return the last number."""
    found = _NUMBER.findall(text)
    return found[-1] if found else None


ANSWERS: Mapping[str, Answer] = {"text": whole_text, "line": last_line, "number": last_number}
"""How the final answer of a text is found, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFile(PromptFile):
    """A file of tasks whose answers can be compared.

    Attributes:
        answer: where the final answer of a text is, one of `ANSWERS`.
    """

    answer: str = "text"

    def __post_init__(self) -> None:
        PromptFile.__post_init__(self)
        reject_unknown("answer of tasks:", {self.answer: None}, ANSWERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRecipe:
    """All options of `outrider train judge`.

    Attributes:
        name: name of the probe.
        target: the model that verifies: a folder, a GGUF file or a family.
        tasks: files of tasks, below the data folder.
        draft: the model whose tokens are tried; empty: that of the family.
        prompts: number of tasks on which tokens are labelled.
        held_out: each task whose number is a multiple of this one is held out: it chooses the
            penalty and the threshold.
        measured: number of further tasks on which the finished probe is measured.
        longest: largest number of tokens of an answer; a text that does not end by then has none.
        longest_prompt: tasks with more tokens are left out.
        recall: least share of the important tokens that the threshold refuses.
        penalties: strengths of the L2 penalty that are tried.
        depth: tokens of a draft in the measurement.
        out: folder of the run.
        data: folder of the data sets.
        seed: seed of the order of tasks.
        threads: threads of PyTorch; 0 lets it choose.
    """

    name: str
    target: str
    tasks: tuple[TaskFile, ...]
    draft: str = ""
    prompts: int = 200
    held_out: int = 5
    measured: int = 40
    longest: int = 96
    longest_prompt: int = 320
    recall: float = 0.9
    penalties: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    depth: int = 8
    out: str = "runs/judge"
    data: str = "data"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not self.tasks:
            raise OptionError("there are no tasks", hint="Add a table [[tasks]]")
        if not self.penalties or min(self.penalties) <= 0.0:
            raise OptionError(
                f"penalties are {list(self.penalties)}", hint="Give numbers above 0, such as [0.1]"
            )

    def answer(self, kind: str) -> Answer:
        """Return the function that finds the final answer of tasks of this file."""
        return ANSWERS[next(task.answer for task in self.tasks if task.name == kind)]
