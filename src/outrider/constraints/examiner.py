"""The process that examines grammars of strangers: `python -m outrider.constraints.examiner`.

Engines are native code, which nothing stops but the end of its process. So a process of little
priority and memory examines first what may take for ever, or break the engine (`examiners.py`).

Messages are JSON after their length, on standard input and output. It imports no PyTorch, so that
it starts quickly.
"""

import json
import os
import signal
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from outrider.constraints.sources import try_grammar, vocabulary_of
from outrider.core.errors import OptionError, OutriderError
from outrider.core.values import JsonValue

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_LENGTH = struct.Struct(">I")
_NICENESS = 5
_STACK = 4 << 20
"""Bytes of the stack: half of what threads of the server have, so that what is read here is read
there too."""


@dataclass(frozen=True, slots=True)
class Given:
    """A grammar, as a message holds it; see `Constraint`."""

    kind: str
    source: str
    whitespace: str | None
    unsupported: str


def write_message(file: IO[bytes], message: JsonValue) -> None:
    """Write a message."""
    data = json.dumps(message).encode()
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def read_message(file: IO[bytes]) -> JsonValue:
    """Return the next message. Raises `EOFError` if there is none."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    [size] = _LENGTH.unpack(head)
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return json.loads(data)


def main() -> None:
    """Answer messages until standard input ends; the first one is the vocabulary.

    The arguments are the seconds of the processor that a message may take, after which the system
    ends the process, and the bytes of memory that it may have.
    """
    seconds, memory = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this too
    inward, outward = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an engine prints is no message
    _limit_process(memory)
    threading.stack_size(_STACK)
    working = threading.Thread(target=_serve, args=(inward, outward, seconds))
    working.start()
    working.join()


def _serve(inward: IO[bytes], outward: IO[bytes], seconds: int) -> None:
    """Read the vocabulary, then answer messages."""
    with suppress(EOFError):
        tokenizer, ends, size = read_message(inward)
        try:
            vocabulary = vocabulary_of(tokenizer, ends, size)
        except OptionError as error:
            write_message(outward, [error.problem, error.hint])
            return
        write_message(outward, None)
        while True:
            what, *rest = read_message(inward)
            _limit_time(seconds)
            answer = _valid(*rest) if what == "text" else _tried(Given(*rest), vocabulary, ends)
            write_message(outward, answer)


def _tried(given: Given, vocabulary: "LLTokenizer", ends: list[int]) -> list[str] | None:
    """Return the problem of a grammar and a hint; None if there is none."""
    try:
        try_grammar(given, vocabulary, ends)
    except OptionError as error:
        return [error.problem, error.hint]
    except (ValueError, RecursionError, MemoryError) as error:
        return [f"the grammar is refused: {' '.join(str(error).split())[:300]}", ""]
    return None


def _valid(schema: str, text: str) -> bool | None:
    """Return whether a text is JSON of a schema; None if that cannot be checked."""
    from outrider.constraints.validation import is_valid, validator_of

    try:
        validator = validator_of(schema)
    except (OutriderError, RecursionError):  # also where the validator is not installed
        return None
    return is_valid(validator, text)


def _limit_process(memory: int) -> None:
    """Set the priority of this process, and the bytes of its address space."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    os.nice(_NICENESS)
    memory = _within(memory, resource.getrlimit(resource.RLIMIT_AS)[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: int) -> None:
    """Let the system end this process after so many further seconds of the processor."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + 1 + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (_within(until, hard), hard))


def _within(wanted: int, hard: int) -> int:
    """Return a limit that the hard one allows; -1 is none."""
    return wanted if hard < 0 else min(wanted, hard)


if __name__ == "__main__":
    main()
