"""Runs programs of strangers under bubblewrap: without network, files, or the rights of a user.

Programs see the folders of the system's libraries and of Python, read-only, and an empty folder in
memory. They run as a user that owns nothing, in namespaces of their own, without system calls that
would pass by their limits (`sandbox_filter.py`), and all of them end with the call.
"""

import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError, one_line
from outrider.search.scorers.sandbox_filter import filter_bytes, known

_USERS = range(61184, 65520)
"""Numbers of users that systemd reserves for services without a fixed user: they own no file."""
_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
_START = 10.0
"""Seconds for the start of the sandbox, on a machine under load."""
_END = 1.0
"""Seconds for its end, after it has answered."""
_CHILD = Path(__file__).with_name("sandbox_child.py")
_RANGES = {
    "seconds": Range(0.0, 3600.0, above=True),
    "memory_bytes": Range(1 << 26, 1 << 40, whole=True, hint="Give at least 64 MiB"),
    "processes": Range(1, 1024, whole=True),
    "output_bytes": Range(1 << 10, 1 << 30, whole=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLimits:
    """Limits of one test of a program.

    Attributes:
        seconds: wall time.
        memory_bytes: address space of each process; all of them together have at most `processes`
            times as much. The kernel's buffers of pipes and sockets are not counted.
        processes: processes and threads.
        output_bytes: size of each file and of all of them together. What is printed is dropped.

    Raises:
        OptionError: a limit is out of range.
    """

    seconds: float = 4.0
    memory_bytes: int = 256 << 20
    processes: int = 4
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)


def run_tests(program: str, tests: Sequence[str], limits: ProgramLimits) -> list[bool]:
    """Run a program with each test, each time from the beginning.

    Args:
        program: its source.
        tests: statements that raise an error if the program is wrong.
        limits: of each test.

    Returns:
        Which tests passed: the program and the test ran to their ends within the limits.

    Raises:
        OptionError: bubblewrap is not installed, or does not start.
    """
    if trouble():
        raise refusal()
    passed, _ = _run(program, tests, limits)
    # Without an answer, the program has ended the process that runs the tests.
    return [False] * len(tests) if passed is None else passed


@cache
def trouble() -> str:
    """Return why no sandbox starts on this machine, in one line; empty if one does."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    if not known():
        return f"there is no filter of system calls for {platform.machine() or 'this machine'}"
    passed, problem = _run("x = 2", ["assert x == 2"], ProgramLimits())
    return "" if passed == [True] else f"bubblewrap does not start: {problem or 'no answer'}"


def refusal() -> OptionError:
    """Return the error that says why no program is run."""
    hint = "Install it, for example with: apt-get install bubblewrap"
    if not known():
        hint = "Use another scorer"
    elif shutil.which("bwrap") is not None:
        hint = "Allow user namespaces on this machine, or use another scorer"
    return OptionError(f"{trouble()}, so no program is run", hint=hint)


def _run(
    program: str, tests: Sequence[str], limits: ProgramLimits
) -> tuple[list[bool] | None, str]:
    """Return which tests passed and an empty text; or None and the problem."""
    is_root = os.geteuid() == 0
    secret = secrets.token_bytes(16)
    job = json.dumps(
        {
            "program": program,
            "tests": list(tests),
            "user": secrets.choice(_USERS) if is_root else 0,
            "seconds": limits.seconds,
            "memory": limits.memory_bytes,
            "processes": limits.processes,
            "output": limits.output_bytes,
        }
    ).encode()
    most = 16 + 8 * len(tests) + 16
    calls = _filter()
    try:
        process = subprocess.Popen(
            command(limits, is_root, calls),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            start_new_session=True,
            pass_fds=(calls,),
        )
    finally:
        os.close(calls)
    timer = threading.Timer(_START + len(tests) * (limits.seconds + 0.5), process.kill)
    timer.daemon = True
    timer.start()
    assert process.stdin and process.stdout and process.stderr
    try:
        process.stdin.write(len(job).to_bytes(4, "big") + job + secret)
        process.stdin.flush()
        answer = process.stdout.read(most)
        problem = b"" if answer else process.stderr.read(400)
    except OSError as error:  # it has ended before it has read its input
        answer, problem = b"", process.stderr.read(400) or str(error).encode()
    finally:
        _close(process)
        timer.cancel()
    return _read(answer, secret, len(tests)), one_line(problem.decode(errors="replace").strip())


def _filter() -> int:
    """Return a descriptor from which the filter of system calls is read."""
    reading, writing = os.pipe()
    with open(writing, "wb") as file:  # it is far smaller than a pipe, so that nothing waits
        file.write(filter_bytes())
    return reading


def command(limits: ProgramLimits, is_root: bool, calls: int) -> list[str]:
    """Return the command that starts Python in a sandbox.

    Root needs no namespace of users, and gives up its rights inside: as root, the number of
    processes would not be limited. `calls` is the descriptor of the filter of system calls.
    """
    words = ["bwrap", "--die-with-parent", "--new-session", "--unshare-ipc", "--unshare-pid"]
    words += ["--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--seccomp", str(calls)]
    if is_root:
        words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        words += f"--unshare-user --uid {_USERS[0]} --gid {_USERS[0]}".split()
    words += f"--proc /proc --dev /dev --perms 1777 --size {limits.output_bytes}".split()
    words += ["--tmpfs", "/tmp"]
    for folder in _FOLDERS:
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            words += ["--ro-bind", folder, folder]
    prefix = os.path.realpath(sys.base_prefix)
    if not f"{prefix}/".startswith("/usr/"):
        for parent in reversed(list(Path(prefix).parents)[:-1]):
            words += ["--perms", "0755", "--dir", str(parent)]
        words += ["--ro-bind", prefix, prefix]
    words += ["--chdir", "/tmp", "--remount-ro", "/", "--remount-ro", "/dev", "--"]
    return [*words, os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", _CHILD.read_text()]


def _read(answer: bytes, secret: bytes, count: int) -> list[bool] | None:
    if not answer.startswith(secret):
        return None
    try:
        passed = json.loads(answer[16:])
    except ValueError:
        return None
    return [one is True for one in passed] if len(passed) == count else None


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # data that it did not read
            pass
    try:
        process.wait(_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
