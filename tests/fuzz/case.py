"""A case: files that are made, a command line, and what may come of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STREAMS = (">&-", ">/dev/full", "| head -c 0", "2>&-", "2>/dev/full")


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
        streams: what a shell does with standard output or standard error, one of `STREAMS`; the
            case then ends as a whole process does.
        file_bytes: size above which the system refuses to write to a file; 0: no limit.
        signal: a signal that is sent; 0: none.
        after: seconds until it is sent.
    """

    name: str
    make: Callable[[Path], None]
    arguments: tuple[str, ...] = ("info", "{folder}")
    stdin: bytes = b""
    codes: tuple[int, ...] = (2,)
    expect: str = ""
    streams: str = ""
    file_bytes: int = 0
    signal: int = 0
    after: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a case ended.

    Attributes:
        code: exit code; negative: the signal that ended the process.
        output: standard output and standard error, mixed.
        seconds: wall time.
        delay: seconds from the signal to the end.
        timed_out: whether the process was killed at the limit.
    """

    code: int
    output: str
    seconds: float
    delay: float = 0.0
    timed_out: bool = False

    def fault(self, case: Case) -> str:
        """Return what is wrong with the outcome, or an empty text."""
        if self.timed_out:
            return f"killed after {self.seconds:.0f} s"
        if "Traceback (most recent call last)" in self.output or "Exception ignored" in self.output:
            return f"traceback: {self.output.strip().splitlines()[-1][:200]}"
        if self.code not in case.codes:
            return f"exit code {self.code}, expected {case.codes}: {self.output.strip()[-300:]}"
        if case.expect not in self.output:
            return f"{case.expect!r} is not in {self.output.strip()[-300:]!r}"
        return ""
