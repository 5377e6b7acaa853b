"""Runs command lines in children with limits on memory and time.

A server process imports the package once and forks for each case, so that a case costs a fork and
not an import of PyTorch. The server starts no threads before it forks.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fuzz.case import Case, Outcome

MEMORY_BYTES = 3 * 10**9
SECONDS = 20.0


class Sandbox:
    """A server process; `run` sends it one case at a time."""

    def __init__(self, memory: int = MEMORY_BYTES, seconds: float = SECONDS) -> None:
        """Start the server."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.sandbox", str(memory), str(seconds)],
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

    def run(self, case: Case) -> Outcome:
        """Make the files of a case in a new folder and run its command line."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory(prefix="outrider-fuzz-") as name:
            folder = Path(name)
            case.make(folder)
            words = [word.replace("{folder}", name) for word in case.arguments]
            order = {"words": words, "stdin": case.stdin.hex(), "cwd": name}
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


def _child(order: dict[str, str], output: int, memory: int) -> int:
    """Run one command line under limits; return its exit code."""
    from outrider.cli.app import main

    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader, writer = os.pipe()
    data = bytes.fromhex(order["stdin"])
    assert len(data) < 60_000, "a pipe holds no more; give a file"
    os.write(writer, data)
    os.close(writer)
    os.dup2(reader, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.chdir(order["cwd"])
    return main(order["words"])


def _run(order: dict[str, str], memory: int, seconds: float) -> dict[str, object]:
    with tempfile.TemporaryFile() as file:
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            code = 1
            os.setsid()
            try:
                code = _child(order, file.fileno(), memory)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    try:
                        stream.flush()
                    except (OSError, ValueError):
                        code = code or 1
                os._exit(code)
        status, timed_out = _wait(child, start + seconds)
        file.seek(0)
        text = file.read().decode(errors="replace")
    return {
        "code": os.waitstatus_to_exitcode(status),
        "output": text[-20_000:],
        "seconds": time.monotonic() - start,
        "timed_out": timed_out,
    }


def _wait(child: int, until: float) -> tuple[int, bool]:
    """Wait for a child; kill its process group at the limit."""
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status, False
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1], True


def _serve(memory: int, seconds: float) -> None:
    import torch
    import transformers

    import outrider.cli.app
    import outrider.engine.load
    import outrider.models.loading

    assert transformers.AutoTokenizer and transformers.PreTrainedTokenizerFast  # imported on use
    del torch, transformers, outrider
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_run(json.loads(line), memory, seconds)) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), float(sys.argv[2]))
