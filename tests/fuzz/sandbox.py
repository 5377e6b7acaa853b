"""Runs command lines in children with limits on memory and CPU time.

CPU time is limited, because the machine of the tests may be busy or stand still. A limit on wall
time, which is far larger, ends a child that waits for ever.

A server process imports the package once and forks for each case, so that a case costs a fork and
not an import of PyTorch. The server starts no threads before it forks. The child is a process of
its own in every other way: it has its own streams, limits and signals, and leaves through the exit
of Python where a case is about its streams.
"""

import gc
import importlib
import json
import math
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
"""CPU time of a case with its children."""

WALL = 10 * SECONDS
"""Wall time of a case."""


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

    def run(
        self,
        case: Case,
        *,
        memory: int = MEMORY_BYTES,
        seconds: float = SECONDS,
        wall: float = WALL,
    ) -> Outcome:
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
                "wall": wall,
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


def _child(order: dict[str, Any], out: int, errors: int) -> int:
    """Run one command line under limits; return its exit code."""
    from outrider.cli.entry import run

    resource.setrlimit(resource.RLIMIT_DATA, (order["memory"], order["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(order["seconds"]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if size := order["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    reader, writer = os.pipe()
    data = bytes.fromhex(order["stdin"])
    assert len(data) < 60_000, "a pipe holds no more; give a file"
    os.write(writer, data)
    os.close(writer)
    os.dup2(reader, 0)
    for given, number in ((out, 1), (errors, 2)):
        os.dup2(given, number)
        os.close(given)
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


def _in_child(order: dict[str, Any], out: int, errors: int) -> NoReturn:
    """Run one command line and leave."""
    code = 1
    os.setsid()
    try:
        code = _child(order, out, errors)
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


def cpu_seconds(process: int) -> float:
    """CPU time of a running process and of its children that have ended, on Linux."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class _Child:
    """A child that runs one case; its output comes through pipes, which no limit on files hits."""

    def __init__(self, order: dict[str, Any]) -> None:
        pipes = [os.pipe(), os.pipe()]
        self.readers, writers = zip(*pipes, strict=True)
        self.written = dict.fromkeys(self.readers, b"")
        self.status: int | None = None
        self.cpu = 0.0
        self.id = os.fork()
        if self.id == 0:
            for reader in self.readers:
                os.close(reader)
            _in_child(order, *writers)
        for reader, writer in pipes:
            os.close(writer)
            os.set_blocking(reader, False)

    def wait(self, until: float) -> bool:
        """Read the output until the child has ended or the limit; return whether it has ended."""
        while self.status is None and time.monotonic() < until:
            select.select(self.readers, [], [], _POLL)
            if not self._read():  # the pipes are closed, or nothing has come
                time.sleep(_POLL)
            self._reap(os.WNOHANG)
        return self.status is not None

    def kill(self) -> None:
        """Kill its process group."""
        with suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(self.id, signal.SIGKILL)
        os.kill(self.id, signal.SIGKILL)
        self._reap(0)

    def close(self) -> list[str]:
        """Close the pipes; return the end of what came through each."""
        for reader in self.readers:
            os.close(reader)
        return [self.written[one].decode(errors="replace")[-_SENT:] for one in self.readers]

    def _reap(self, options: int) -> None:
        found, status, usage = os.wait4(self.id, options)
        if found:
            self.status, self.cpu = status, usage.ru_utime + usage.ru_stime
            while self._read():
                pass

    def _read(self) -> bool:
        came = [self._read_from(reader) for reader in self.readers]
        return any(came)

    def _read_from(self, reader: int) -> bool:
        try:
            data = os.read(reader, 1 << 16)
        except BlockingIOError:
            return False
        self.written[reader] = (self.written[reader] + data)[-_KEPT:]
        return bool(data)


_POLL = 0.002
"""Seconds between two looks at a child."""

_KEPT = 80_000
"""Bytes of output that are kept, from its end."""

_SENT = 20_000
"""Characters of them that are sent."""

_ENDED = (-signal.SIGKILL, -signal.SIGXCPU)
"""Exit codes of a process that the system ended at its limit on CPU time."""


def _run(order: dict[str, Any]) -> dict[str, object]:
    start, sent = time.monotonic(), 0.0
    child = _Child(order)
    if order["signal"] and not child.wait(start + order["after"]):
        sent = cpu_seconds(child.id)
        os.kill(child.id, order["signal"])
    killed = not child.wait(start + order["wall"])
    if killed:
        child.kill()
    out, errors = child.close()
    assert child.status is not None
    code = os.waitstatus_to_exitcode(child.status)
    return {
        "code": code,
        "out": out,
        "errors": errors,
        "seconds": time.monotonic() - start,
        "cpu": child.cpu,
        "delay": max(child.cpu - sent, 0.0) if sent else 0.0,
        "timed_out": killed or code in _ENDED or child.cpu > order["seconds"],
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
