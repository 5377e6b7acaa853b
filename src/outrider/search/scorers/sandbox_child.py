"""What runs inside the sandbox: each test of a program in a process of its own.

The text of this file is given to the interpreter in the sandbox, which has no other file of this
package; it imports the standard library only. The process that starts the tests never runs a line
of the program. It reads a secret word after the last test has ended, and writes it with the
results, so that no test can write results of its own.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_POLL = 0.002
_GONE = 2.0
"""Most seconds until processes that were killed are gone."""
_OWN = 3
"""Processes of the sandbox besides those of the program: its first one, this one, and a spare."""


def main() -> None:
    """Read a job from standard input, run its tests, and write which of them passed."""
    size = int.from_bytes(_read(4), "big")
    job = json.loads(_read(size))
    _become_nobody(job["user"])
    passed = [_passes(job, test) for test in job["tests"]]
    secret = _read(16)
    os.write(1, secret + json.dumps(passed).encode())


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size and (part := os.read(0, size - len(data))):
        data += part
    return data


def _become_nobody(user: int) -> None:
    """Give up the rights of root, if there are any, and hide this process from its children."""
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    import ctypes

    set_dumpable = 4
    ctypes.CDLL(None).prctl(set_dumpable, 0, 0, 0, 0)


def _passes(job: Mapping[str, Any], test: str) -> bool:
    """Run the program and one test in a new process, and end all that it has started."""
    word = os.urandom(16)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _run(job, test, word, writing)
        finally:
            os._exit(1)
    os.close(writing)
    deadline = time.monotonic() + job["seconds"]
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(_POLL)
    _end_all()
    os.set_blocking(reading, False)  # a process that cannot be ended yet may hold the other end
    try:
        found = os.read(reading, 16)
    except BlockingIOError:
        found = b""
    os.close(reading)
    return found == word


def _end_all() -> None:
    """End all processes that this one may signal, which are those of the program, and wait until
    they are gone."""
    deadline = time.monotonic() + _GONE
    while time.monotonic() < deadline:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        with suppress(ChildProcessError):  # others are children of the sandbox's first process
            os.waitpid(-1, os.WNOHANG)
        time.sleep(_POLL)


def _run(job: Mapping[str, Any], test: str, word: bytes, writing: int) -> None:
    """Run a program and a test in this process. Nothing that it prints is kept."""
    os.setsid()
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    limits = {
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_NPROC: job["processes"] + _OWN,
        resource.RLIMIT_FSIZE: job["output"],
        resource.RLIMIT_CPU: int(job["seconds"]) + 1,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in limits.items():
        resource.setrlimit(which, (value, value))
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(job["program"], "program", "exec"), names)
    exec(compile(test, "test", "exec"), names)
    sys.stdout.flush()
    os.write(writing, word)
    os._exit(0)


if __name__ == "__main__":
    main()
