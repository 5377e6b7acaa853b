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
        notes: whether the command writes notes for people to standard error before an error.
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
    notes: bool = False
    streams: str = ""
    file_bytes: int = 0
    signal: int = 0
    after: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a case ended.

    Attributes:
        code: exit code; negative: the signal that ended the process.
        out: standard output.
        errors: standard error.
        seconds: wall time.
        cpu: CPU time in seconds, with that of its children.
        delay: CPU time in seconds from the signal to the end.
        timed_out: whether it reached a limit on time.
    """

    code: int
    out: str
    errors: str
    seconds: float
    cpu: float
    delay: float = 0.0
    timed_out: bool = False

    @property
    def output(self) -> str:
        """Standard output, then standard error."""
        return self.out + self.errors

    def fault(self, case: Case) -> str:
        """Return what is wrong with the outcome, or an empty text."""
        if self.timed_out:
            return f"ended after {self.cpu:.1f} s of CPU time, {self.seconds:.1f} s in all"
        if "Traceback (most recent call last)" in self.output or "Exception ignored" in self.output:
            return f"traceback: {self.output.strip().splitlines()[-1][:200]}"
        if self.code not in case.codes:
            return f"exit code {self.code}, expected {case.codes}: {self.output.strip()[-300:]}"
        if self.code in (1, 2) and not self._told_in_one_line(case):
            return f"the error is not one line: {self.errors[-600:]!r}"
        if self.errors.startswith(("error: unknown option", "error: unknown command")):
            return f"the command line of the case is wrong: {self.errors.strip()}"
        if case.expect not in self.output:
            return f"{case.expect!r} is not in {self.output.strip()[-300:]!r}"
        return ""

    def _told_in_one_line(self, case: Case) -> bool:
        """Whether standard error holds one error, and beside it only warnings of one line each.

        Exit code 2 is always explained. Exit code 1 is not if nobody reads what is written.
        """
        lines = self.errors.splitlines()
        told = [line for line in lines if line.startswith("error: ")]
        known = [line for line in lines if line.startswith(("error: ", "warning: "))]
        if told and (len(told) > 1 or lines[-1] != told[0]):
            return False
        silent = self.code == 1 or case.streams.startswith("2")
        return (case.notes or len(known) == len(lines)) and (bool(told) or silent)
