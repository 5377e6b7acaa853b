"""Judges programs by the share of their tests that they pass, in a sandbox."""

import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field

from outrider.core.errors import OptionError
from outrider.search.scorers.sandbox import ProgramLimits, refusal, run_tests, trouble

_BLOCK = re.compile(r"```[A-Za-z0-9]*[ \t]*\n(.*?)(?:```|\Z)", re.S)


def program_in(text: str) -> str:
    """Return the program in an answer: its first block between lines of three backticks, or all of
    it."""
    found = _BLOCK.search(text)
    return found[1] if found else text


def halves(tests: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split tests in two: public ones, by which a search may choose, and private ones for judging
    its result. Of an odd number, the public half has one more."""
    return list(tests[::2]), list(tests[1::2])


@dataclass(frozen=True, slots=True)
class ProgramScorer:
    """Runs generated programs with tests; the score is the share of tests that pass.

    A program sees its tests and could be written to deceive them, so tests that judge the result of
    a search belong to no scorer that guides it.

    Attributes:
        tests: statements that raise an error if the program is wrong, such as
            `assert add(1, 2) == 3`.
        allow_code_execution: permission to run programs that a model has written.
        limits: of each test.
        before: source before each program, such as the first lines that the prompt gives.
        program: finds the program in a text.
        title: its name in results and errors.

    Raises:
        OptionError: there is no permission, no test, or no sandbox on this machine.
    """

    tests: tuple[str, ...]
    _: KW_ONLY
    allow_code_execution: bool = False
    limits: ProgramLimits = field(default_factory=ProgramLimits)
    before: str = ""
    program: Callable[[str], str] = program_in
    title: str = "programs"

    def __post_init__(self) -> None:
        if not self.allow_code_execution:
            raise OptionError(
                "programs that a model has written are not run without permission",
                hint="Give allow_code_execution=True (--allow-code-execution) for a sandbox",
            )
        if not self.tests:
            raise OptionError("there are no tests", hint="Give at least one statement")
        if trouble():
            raise refusal()

    @property
    def name(self) -> str:
        """Its name."""
        return self.title

    def score(self, prompt: str, texts: Sequence[str]) -> list[float]:
        """Return the share of passed tests of each text."""
        return [sum(self.passed(text)) / len(self.tests) for text in texts]

    def passed(self, text: str) -> list[bool]:
        """Return which tests the program in a text passes. Raises `OptionError` if no sandbox
        starts."""
        return run_tests(self.before + self.program(text), self.tests, self.limits)
