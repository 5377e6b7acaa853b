"""Runs a function in a child process with limits on memory and time.

For parsers that cannot be stopped from within. The child is a new interpreter, so calls from
threads are safe. It imports only the module of the function, which must not import PyTorch.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO, Literal

_BOOT = """
import json, sys
order = json.loads(sys.stdin.buffer.readline())
sys.path[:] = order["path"]
from outrider.core.isolation import serve
serve(order)
"""

_PROGRESS = 1 << 16
"""Longest message that a child may send, beside its result, in bytes."""

Values = Mapping[str, Any]
"""Arguments of a function, as JSON can hold them."""

Report = Callable[[Sequence[int]], None]
"""Called with numbers that describe progress."""


class IsolationError(Exception):
    """A child did not return.

    Attributes:
        reason: the limit that was reached, or "crash" for a child that ended otherwise.
    """

    def __init__(self, reason: Literal["seconds", "memory", "size", "crash"]) -> None:
        self.reason = reason
        super().__init__(reason)


class FailedCallError(Exception):
    """The function in the child raised an exception.

    Attributes:
        kind: name of the type of the exception.
    """

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildLimits:
    """Limits of one call.

    Attributes:
        seconds: wall time, start of the child included.
        memory_bytes: address space of the child; not enforced where the system has no such limit.
        result_bytes: size of the result in UTF-8.
    """

    seconds: float
    memory_bytes: int
    result_bytes: int


def call_isolated(
    function: str,
    data: bytes,
    arguments: Values,
    *,
    limits: ChildLimits,
    report: Report | None = None,
) -> str:
    """Call a function in a child process and return the text that it returns.

    Args:
        function: `module:name` of `name(data, report, **arguments) -> str`.
        data: bytes for the function.
        arguments: more arguments, as JSON can hold them.
        limits: the child is killed if it exceeds them.
        report: receives the progress that the function reports.

    Raises:
        IsolationError: a limit was reached, or the child ended without a result.
        FailedCallError: the function raised an exception.
    """
    order = {
        "path": [os.path.abspath(place) for place in sys.path if place],
        "function": function,
        "arguments": dict(arguments),
        "size": len(data),
        "seconds": limits.seconds,
        "memory": limits.memory_bytes,
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _BOOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    late = threading.Event()
    timer = threading.Timer(limits.seconds, lambda: (late.set(), process.kill()))
    timer.daemon = True
    timer.start()
    try:
        return _talk(process, json.dumps(order).encode() + b"\n", data, limits, report)
    except IsolationError:
        if late.is_set():
            raise IsolationError("seconds") from None
        raise
    finally:
        timer.cancel()
        process.kill()
        _close(process)


def _talk(
    process: subprocess.Popen[bytes],
    order: bytes,
    data: bytes,
    limits: ChildLimits,
    report: Report | None,
) -> str:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(order)
        process.stdin.write(data)
        process.stdin.flush()
    except OSError:  # the child has ended
        raise IsolationError("crash") from None
    while line := process.stdout.readline(_PROGRESS):
        try:
            message = json.loads(line)
        except ValueError:
            break
        if "progress" in message:
            if report is not None:
                report(message["progress"])
        elif "error" in message:
            if message["error"] == "MemoryError":
                raise IsolationError("memory")
            raise FailedCallError(message["error"], message["text"])
        elif message["size"] > limits.result_bytes:
            raise IsolationError("size")
        else:
            result = process.stdout.read(message["size"])
            if len(result) == message["size"]:
                return result.decode("utf-8", "surrogatepass")
            break
    raise IsolationError("crash")


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # data that the child did not read
            pass
    process.wait()


def serve(order: Mapping[str, Any]) -> None:
    """Answer one call; the main function of a child. Standard output carries messages only."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit(order["memory"], order["seconds"])
    try:
        data = sys.stdin.buffer.read(order["size"])
        module, name = order["function"].split(":")
        call = getattr(import_module(module), name)
        text = call(data, lambda numbers: _send(answers, progress=numbers), **order["arguments"])
        result = text.encode("utf-8", "surrogatepass")
    except MemoryError:
        _send(answers, error="MemoryError", text="")
    except BaseException as error:
        _send(answers, error=type(error).__name__, text=" ".join(str(error).split())[:300])
    else:
        _send(answers, size=len(result))
        answers.write(result)
        answers.flush()
    os._exit(0)  # nothing to clean up, and a full heap takes long to free


def _send(stream: BinaryIO, **message: Any) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _limit(memory: int, seconds: float) -> None:
    """Limit this process, where the system can. The parent measures wall time itself; the limit on
    CPU time ends a child whose parent was killed.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    wanted = {"RLIMIT_AS": memory, "RLIMIT_CPU": int(seconds) + 2, "RLIMIT_CORE": 0}
    for name, value in wanted.items():
        try:
            which = getattr(resource, name)
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, hard))
        except (AttributeError, OSError, ValueError):  # macOS refuses some limits
            continue
