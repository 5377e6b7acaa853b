"""The sandbox finds what it should find."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.case import STREAMS, Case, Outcome
from tests.fuzz.sandbox import Sandbox


def nothing(folder: Path) -> None:
    """Leave the folder empty."""


def test_a_wrong_input_is_one_line(sandbox: Sandbox) -> None:
    case = Case(name="empty folder", make=nothing)
    assert sandbox.run(case).fault(case) == ""


def test_what_works_is_exit_code_zero(sandbox: Sandbox) -> None:
    case = Case(name="help", make=nothing, arguments=("--version",), codes=(0,), expect="outrider")
    assert sandbox.run(case).fault(case) == ""
    wrong = Case(name="help", make=nothing, arguments=("--version",))
    assert "exit code 0" in sandbox.run(wrong).fault(wrong)


@pytest.mark.parametrize("streams", STREAMS)
def test_streams_are_those_of_a_shell(sandbox: Sandbox, streams: str) -> None:
    """The message, exit code and end of a real process."""
    case = Case(name=streams, make=nothing, arguments=("--version",), streams=streams, codes=(0, 1))
    found = sandbox.run(case)
    line = ["sh", "-c", f'"$@" {streams}', "sh", sys.executable, "-m", "outrider", "--version"]
    real = subprocess.run(line, capture_output=True, text=True, check=False)
    assert found.fault(case) == ""
    assert found.output == real.stdout + real.stderr
    if "|" not in streams:
        assert found.code == real.returncode


ENDLESS = ("generate", "hi", "--raw", "--max-new-tokens", "1000000", "--mode", "none")


def test_a_command_that_computes_too_long_is_ended(sandbox: Sandbox) -> None:
    case = Case(name="slow", make=nothing, arguments=ENDLESS, codes=(0,))
    outcome = sandbox.run(case, seconds=1)
    assert "ended after 1." in outcome.fault(case)
    short = Case(name="short", make=nothing, codes=(2,))
    assert "of CPU time" in sandbox.run(short, seconds=1e-4).fault(short)


def test_time_that_a_command_stands_still_is_not_counted(sandbox: Sandbox) -> None:
    case = Case(name="stopped", make=nothing, arguments=ENDLESS, signal=signal.SIGSTOP, after=0.1)
    outcome = sandbox.run(case, seconds=1, wall=2)
    assert outcome.cpu < 1 < 2 <= outcome.seconds
    assert outcome.delay < 0.1
    assert outcome.timed_out, "the limit on wall time"


ONE = "error: this is wrong. Fix it\n"


@pytest.mark.parametrize(
    ("errors", "good"),
    [
        (ONE, True),
        ("warning: something\n" + ONE, True),
        ("", False),
        ("warning: something\n", False),
        (ONE + ONE, False),
        (ONE + "more of it\n", False),
        ("a log of a library\n" + ONE, False),
        ("error: this\u2028is wrong\n", False),
    ],
)
def test_an_error_is_one_line_of_standard_error(errors: str, good: bool) -> None:
    case = Case(name="wrong", make=nothing)
    outcome = Outcome(code=2, out="a table\nof text\n", errors=errors, seconds=1, cpu=1)
    assert (outcome.fault(case) == "") is good
    assert ("not one line" in outcome.fault(case)) is not good
    if not good:
        noted = Case(name="notes", make=nothing, notes=True)
        last = errors.endswith(ONE) and errors.count("error: ") == 1
        assert (outcome.fault(noted) == "") is last
    assert Outcome(code=2, out=ONE, errors="", seconds=1, cpu=1).fault(case) != ""


def test_a_case_with_a_wrong_command_line_is_a_fault(sandbox: Sandbox) -> None:
    """It would be refused for another reason than its files."""
    for words in (("info", "{folder}", "--quiet"), ("inform", "{folder}")):
        case = Case(name="wrong words", make=nothing, arguments=words)
        assert "the command line of the case is wrong" in sandbox.run(case).fault(case)


def test_memory_is_limited(sandbox: Sandbox) -> None:
    case = Case(name="large", make=nothing, arguments=("generate", "hi"), codes=(0,))
    assert sandbox.run(case, memory=10**6).fault(case) != ""
