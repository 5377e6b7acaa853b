"""A case: files that are made, a command line, and what may come of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run of the command line.

    Attributes:
        name: unique in its class of faults.
        make: writes the files of the case into an empty folder.
        arguments: words of the command line; `{folder}` is replaced by that folder.
        stdin: what is piped in.
        codes: exit codes that are right: 2 is one line that explains a wrong input.
        expect: text that the output must contain.
    """

    name: str
    make: Callable[[Path], None]
    arguments: tuple[str, ...] = ("info", "{folder}")
    stdin: bytes = b""
    codes: tuple[int, ...] = (2,)
    expect: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a case ended.

    Attributes:
        code: exit code; negative: the signal that ended the process.
        output: standard output and standard error, mixed.
        seconds: wall time.
        timed_out: whether the process was killed at the limit.
    """

    code: int
    output: str
    seconds: float
    timed_out: bool = False

    def fault(self, case: Case) -> str:
        """Return what is wrong with the outcome, or an empty text."""
        if self.timed_out:
            return f"killed after {self.seconds:.0f} s"
        if "Traceback (most recent call last)" in self.output:
            return f"traceback: {self.output.strip().splitlines()[-1][:200]}"
        if self.code not in case.codes:
            return f"exit code {self.code}, expected {case.codes}: {self.output.strip()[-300:]}"
        if case.expect not in self.output:
            return f"{case.expect!r} is not in {self.output.strip()[-300:]!r}"
        return ""
