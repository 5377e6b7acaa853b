"""Tests of the kernels do not skip where a compiler fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outrider import kernels
from tests.conftest import broken_kernels


@pytest.mark.parametrize(
    ("compiler", "switch", "stops"),
    [(sys.executable, "", True), ("/nonexistent", "", False), (sys.executable, "off", False)],
    ids=["a compiler fails", "no compiler", "switched off"],
)
def test_what_stops_the_tests(
    compiler: str, switch: str, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "available", lambda: False)
    monkeypatch.setattr(kernels, "reason_missing", lambda: "the reason")
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("OUTRIDER_KERNELS", switch)
    assert broken_kernels() == ("the reason" if stops else "")


def test_kernels_that_compile_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available", lambda: True)
    assert broken_kernels() == ""


@pytest.mark.slow
def test_pytest_ends_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "cc").write_text(f"#!{sys.executable}\nimport sys\nsys.exit('x.c:1: error: bad')\n")
    (tmp_path / "cc").chmod(0o755)
    settings = {"CC": str(tmp_path / "cc"), "OUTRIDER_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/kernels/test_topk.py"],
        env=os.environ | settings,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the kernels do not compile" in done.stderr and "error: bad" in done.stderr
