"""`outrider serve` and other programs as processes of their own."""

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

_PATIENCE = 180.0
"""Seconds in which a program must be ready, on a busy machine."""


@contextmanager
def serving(*options: str, keys: str = "") -> Iterator[str]:
    """Context manager: run `outrider serve` at a free port; give its address without a slash.

    Args:
        options: of the command, besides the port.
        keys: `OUTRIDER_API_KEYS`.
    """
    command = [sys.executable, "-m", "outrider", "serve", "--threads", "1", "--port", "0", *options]
    environment = os.environ | {"OUTRIDER_API_KEYS": keys, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            yield _address(process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=_PATIENCE)
    assert process.returncode == 0


@contextmanager
def program(command: Sequence[str | Path], ready: str, log: Path) -> Iterator[None]:
    """Context manager: run a program until the end of the block.

    Args:
        command: the program and its arguments.
        ready: an address that answers, with any status, when the program can be used.
        log: file for its output.
    """
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as run:
        try:
            _wait_for(ready, run, log)
            yield
        finally:
            run.terminate()
            run.wait(timeout=_PATIENCE)


def _address(process: subprocess.Popen[bytes]) -> str:
    """Return the address that a server reports when it is ready."""
    assert process.stderr is not None
    output, deadline = b"", time.monotonic() + _PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while time.monotonic() < deadline and process.poll() is None:
            if selector.select(timeout=1.0):
                output += os.read(process.stderr.fileno(), 4096)
            if found := re.search(rb"serving at (http://[\d.:]+)/v1", output):
                return found[1].decode()
    raise AssertionError(f"the server is not ready: {output.decode()}")


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except HTTPError as answer:  # it answers, and what is behind it does not
            answer.close()
            return
        except (URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer: {log.read_text()}")
