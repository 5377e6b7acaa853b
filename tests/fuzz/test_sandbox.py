"""The sandbox finds what it should find."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.case import STREAMS, Case
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


def test_a_command_that_hangs_is_killed(sandbox: Sandbox) -> None:
    case = Case(name="slow", make=nothing, arguments=("generate", "hi"), codes=(0,))
    assert "killed after" in sandbox.run(case, seconds=0.01).fault(case)


def test_memory_is_limited(sandbox: Sandbox) -> None:
    case = Case(name="large", make=nothing, arguments=("generate", "hi"), codes=(0,))
    assert sandbox.run(case, memory=10**6).fault(case) != ""
