"""The sandbox finds what it should find."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.case import Case
from tests.fuzz.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(seconds=10) as made:
        yield made


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
