"""Standard streams that are closed or full, and files on a full disk: one line, no traceback."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.bench.journal import Journal
from outrider.bench.report.report import write_lines
from outrider.cli.ui import streams
from outrider.cli.ui.caption_file import CaptionFile
from outrider.core.errors import OptionError
from outrider.strategy.calibration import save_calibrations
from tests.cli.conftest import Run

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


Use = Callable[[int], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Make a descriptor standard output."""
    used: list[int] = []

    def take(number: int) -> None:
        raw = streams._Output(number, "w", closefd=False)
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw)))
        used.append(number)

    yield take
    for number in used:
        os.close(number)


@needs_full
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["methods"], ["bench", "--help"]])
def test_a_full_disk_is_one_line(words: list[str], run: Run, use: Use) -> None:
    use(os.open(FULL, os.O_WRONLY))
    outcome = run(*words)
    assert outcome.code == 1
    assert outcome.error == "standard output: No space left on device"


def test_a_reader_that_has_gone_needs_no_message(run: Run, use: Use) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    use(writer)
    outcome = run("methods")
    assert (outcome.code, outcome.err) == (1, "")


def test_any_error_of_the_system_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "some/file")

    monkeypatch.setattr("outrider.cli.commands.methods._found", fails)
    outcome = run("methods")
    assert (outcome.code, outcome.error) == (1, "some/file: Permission denied")


# -- files ------------------------------------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no text be written to files."""

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)


@needs_full
def test_captions_on_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").symlink_to(FULL)
    with CaptionFile.__new__(CaptionFile) as file:
        file.path = tmp_path / "out.jsonl"
        file._file = FULL.open("ab", buffering=0)
        with pytest.raises(OptionError, match=r"out.jsonl cannot be written: No space left"):
            file.write({"image": "a.png", "caption": "words"})


@needs_full
def test_a_journal_on_a_full_disk(tmp_path: Path) -> None:
    journal = Journal({}, tmp_path)
    (tmp_path / "runs.jsonl").symlink_to(FULL)
    with pytest.raises(OptionError, match=r"runs.jsonl cannot be written: No space left"):
        journal.note("bandwidth", 1.0)


@needs_full
def test_lines_of_a_bench_on_a_full_disk() -> None:
    measured: Any = type("Measured", (), {"runs": ()})
    with pytest.raises(OptionError, match="/dev/full cannot be written: No space left"):
        write_lines(FULL, measured, {"a": 1})


def test_calibrations_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "calibration.json"
    save_calibrations(file, [])
    before = file.read_bytes()
    refuse(monkeypatch)
    with pytest.raises(OptionError, match=r"calibration.json cannot be written: No space left"):
        save_calibrations(file, [])
    assert file.read_bytes() == before and [*tmp_path.iterdir()] == [file]


# -- the process ------------------------------------------------------------------------------

posix = pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")


@posix
@pytest.mark.parametrize(
    ("redirection", "code", "line"),
    [
        (">&-", 1, f"error: {streams.OUTPUT}: it is closed"),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 1, ""),
        pytest.param(
            ">/dev/full", 1, f"error: {streams.OUTPUT}: No space left on device", marks=needs_full
        ),
        pytest.param("2>/dev/full", 0, "", marks=needs_full),
    ],
)
def test_streams_of_the_process(redirection: str, code: int, line: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m outrider --version {redirection}', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.rstrip("\n")) == (code, line)
    assert bool(done.stdout) == (code == 0)


@posix
def test_no_file_takes_the_number_of_a_closed_stream() -> None:
    code = "from outrider.cli.ui import streams; streams.prepare(); f = open('/dev/null'); "
    code += "import os; os._exit(f.fileno() < 3)"
    done = subprocess.run(["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code])
    assert done.returncode == 0
