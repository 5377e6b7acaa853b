"""Runs command lines in children with limits on memory and time.

A server process imports the package once and forks for each case, so that a case costs a fork and
not an import of PyTorch. The server starts no threads before it forks. The child is a process of
its own in every other way: it has its own streams, limits and signals, and leaves through the exit
of Python where a case is about its streams.
"""

import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from tests.fuzz.case import Case, Outcome

MEMORY_BYTES = 3 * 10**9
SECONDS = 20.0


class Sandbox:
    """A server process; `run` sends it one case at a time."""

    def __init__(self) -> None:
        """Start the server."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "500"},
        )

    def __enter__(self) -> Self:
        """Return the sandbox."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End the server."""
        with self.process:  # closes the pipes
            self.process.kill()

    def run(self, case: Case, *, memory: int = MEMORY_BYTES, seconds: float = SECONDS) -> Outcome:
        """Make the files of a case in a new folder and run its command line."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory(prefix="outrider-fuzz-") as name:
            folder = Path(name)
            case.make(folder)
            words = [word.replace("{folder}", name) for word in case.arguments]
            order = {
                "words": words,
                "stdin": case.stdin.hex(),
                "cwd": name,
                "streams": case.streams,
                "file_bytes": case.file_bytes,
                "signal": case.signal,
                "after": case.after,
                "memory": memory,
                "seconds": seconds,
            }
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            assert answer, "the sandbox has ended"
            return Outcome(**json.loads(answer))

    def faults(self, cases: Iterable[Case]) -> Iterator[tuple[str, str]]:
        """Run all cases; yield the names of those with a fault, and the fault."""
        for case in cases:
            if fault := self.run(case).fault(case):
                yield case.name, fault


def _child(order: dict[str, Any], output: int) -> int:
    """Run one command line under limits; return its exit code."""
    from outrider.cli.entry import run

    resource.setrlimit(resource.RLIMIT_DATA, (order["memory"], order["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if size := order["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    reader, writer = os.pipe()
    data = bytes.fromhex(order["stdin"])
    assert len(data) < 60_000, "a pipe holds no more; give a file"
    os.write(writer, data)
    os.close(writer)
    os.dup2(reader, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    _redirect(order["streams"])
    os.chdir(order["cwd"])
    sys.argv = ["outrider", *order["words"]]
    return run()


def _redirect(streams: str) -> None:
    """Set standard output and standard error as Python does when it starts in a shell."""
    number = 2 if streams.startswith("2") else 1
    if streams.endswith(">&-"):
        os.close(number)
    elif streams.endswith("/dev/full"):
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    elif streams:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)
        os.close(writer)
    closed = number if streams.endswith(">&-") else 0
    sys.stdout = sys.__stdout__ = None if closed == 1 else os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = (
        None if closed == 2 else os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    )


def _in_child(order: dict[str, Any], output: int) -> NoReturn:
    """Run one command line and leave."""
    code = 1
    os.setsid()
    try:
        code = _child(order, output)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    if order["streams"]:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    os._exit(code)


class _Child:
    """A child that runs one case; its output comes through a pipe, which no limit on files hits."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.output = b""
        self.status: int | None = None
        self.reader, writer = os.pipe()
        self.id = os.fork()
        if self.id == 0:
            os.close(self.reader)
            _in_child(order, writer)
        os.close(writer)
        os.set_blocking(self.reader, False)

    def wait(self, until: float) -> bool:
        """Read the output until the child has ended or the limit; return whether it has ended."""
        while self.status is None and time.monotonic() < until:
            select.select([self.reader], [], [], _POLL)
            if not self._read():  # the pipe is closed, or nothing has come
                time.sleep(_POLL)
            found, status = os.waitpid(self.id, os.WNOHANG)
            if found:
                self.status = status
                while self._read():
                    pass
        return self.status is not None

    def kill(self) -> None:
        """Kill its process group."""
        with suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(self.id, signal.SIGKILL)
        os.kill(self.id, signal.SIGKILL)
        self.status = os.waitpid(self.id, 0)[1]

    def _read(self) -> bool:
        try:
            data = os.read(self.reader, 1 << 16)
        except BlockingIOError:
            return False
        self.output = (self.output + data)[-_KEPT:]
        return bool(data)


_POLL = 0.002
"""Seconds between two looks at a child."""

_KEPT = 80_000
"""Bytes of output that are kept, from its end."""


def _run(order: dict[str, Any]) -> dict[str, object]:
    start = sent = time.monotonic()
    child = _Child(order)
    if order["signal"]:
        ended = child.wait(start + order["after"])
        sent = time.monotonic()
        if not ended:
            os.kill(child.id, order["signal"])
    timed_out = not child.wait(start + order["seconds"])
    if timed_out:
        child.kill()
    os.close(child.reader)
    assert child.status is not None
    return {
        "code": os.waitstatus_to_exitcode(child.status),
        "output": child.output.decode(errors="replace")[-20_000:],
        "seconds": time.monotonic() - start,
        "delay": time.monotonic() - sent,
        "timed_out": timed_out,
    }


MODELS = ("gpt2", "gemma2", "mixtral", "idefics3", "auto")
"""Models of `transformers` that the cases build."""


def _import_all() -> None:
    """Import what commands import on use."""
    import outrider

    for module in pkgutil.walk_packages(outrider.__path__, "outrider."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # an optional dependency is missing
                importlib.import_module(module.name)
    for name in (
        "tests.models.setups.make_checkpoints",
        "transformers.models.auto.tokenization_auto",
        *(f"transformers.models.{name}.modeling_{name}" for name in MODELS),
        *("pydantic", "rich.live", "rich.progress", "rich.table", "zoneinfo", "typer._adapters"),
        *("pypdf", "PIL.Image", "PIL.PngImagePlugin", "multiprocessing.spawn", "jinja2.debug"),
    ):
        with suppress(ImportError):
            importlib.import_module(name)


def _serve() -> None:
    _import_all()
    gc.freeze()  # a collection in a child then copies no pages
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where tests run
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
