"""Ctrl-C and SIGTERM at any moment: the right exit code, at most one line, nothing lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from outrider.cli.ui import interrupt
from outrider.core.errors import CheckpointError
from outrider.models.caches import prefill
from tests.cli.conftest import Family, Run

if sys.platform == "win32":
    pytest.skip("signals of POSIX", allow_module_level=True)

LONG = "Once upon a time. " * 10


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Handlers are as before after each test."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Prompts are read in chunks of 16 tokens; the first chunk gets a Ctrl-C. A list of them."""
    read: list[int] = []
    chunk = prefill.Reading.chunk

    def interrupted(self: prefill.Reading) -> Any:
        if len(self.tokens) >= len(LONG):  # others are measurements during loading
            read.append(self.cache.length)
            if len(read) == 2:
                signal.raise_signal(signal.SIGINT)
        return chunk(self)

    monkeypatch.setattr(prefill, "PREFILL_CHUNK", 16)
    monkeypatch.setattr(prefill.Reading, "chunk", interrupted)
    return read


def test_ctrl_c_ends_the_reading_of_a_long_prompt(
    family: Family, run: Run, chunks: list[int]
) -> None:
    outcome = run("generate", LONG, *family.alone, "--stream")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")
    assert chunks == [0, 16]


def test_chat_goes_on_after_ctrl_c_in_a_prompt(family: Family, run: Run, chunks: list[int]) -> None:
    length = ["--max-new-tokens", "8"]
    outcome = run("chat", *family.alone, *length, stdin=f"{LONG}\nHello\n")
    assert outcome.code == 0
    assert "stopped before the answer began" in outcome.err
    expected = run("chat", *family.alone, *length, stdin="Hello\n")
    assert outcome.out == expected.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", [CheckpointError, RuntimeError, OSError, SystemExit])
def test_an_error_after_a_signal_is_its_consequence(
    number: signal.Signals,
    error: type[BaseException],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`transformers` raises that a module cannot be imported, for example."""

    def replaced(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise error("Could not import module: download its files again") from None

    monkeypatch.setattr("outrider.cli.commands.generate.read_prompt", replaced)
    outcome = run("generate", "x")
    assert (outcome.code, outcome.out, outcome.err) == (128 + number, "", "")


def test_a_signal_that_a_library_ignores_is_not_a_success(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignored(*_: object) -> dict[str, Any]:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            return {}
        return {}

    monkeypatch.setattr("outrider.cli.commands.methods._found", ignored)
    assert run("methods").code == 130


def test_sigterm_is_143(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("outrider.cli.commands.methods._found", terminated)
    outcome = run("methods")
    assert (outcome.code, outcome.out, outcome.err) == (143, "", "")


class Ended(BaseException):
    """The process would have ended."""


def no_exit(code: int) -> None:
    raise Ended(code)


def test_the_second_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", no_exit)
    with interrupt.obeyed() as received:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert received.code == 130
        with pytest.raises(Ended, match="130"):
            signal.raise_signal(signal.SIGTERM)


def test_during_an_import_the_first_signal_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C code that imports modules may ignore the exception."""
    (tmp_path / "interrupted_module.py").write_text(
        "import signal\ntry: signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(os, "_exit", no_exit)
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: None)
    with interrupt.obeyed(), pytest.raises(Ended, match="130"):
        import_module("interrupted_module")


def test_an_interrupt_in_a_finalizer_comes_again() -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with interrupt.obeyed() as received:
        del_me: list[Finalized] = [Finalized()]
        with pytest.raises(KeyboardInterrupt):
            del_me.clear()
            for _ in range(100):
                time.sleep(0.1)
        assert received.code == 130


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.obeyed(), interrupt.cancelling(lambda: None, lambda: True):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


PROCESS = """
import os, signal, sys
sys.argv = ["outrider", "--help"]
{before}
from outrider.cli import entry
sys.exit(entry.run())
"""


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGINT, "typer"),
        (signal.SIGINT, "rich.console"),
        (signal.SIGTERM, "outrider.cli.commands.chat"),
    ],
)
def test_a_signal_during_the_first_imports(number: int, name: str) -> None:
    before = f"""
class Send:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            signal.raise_signal({int(number)})
sys.meta_path.insert(0, Send())
"""
    code = PROCESS.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")
