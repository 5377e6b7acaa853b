"""Processes that examine the grammars of strangers, and are replaced if one takes too long."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, LifoQueue

from outrider.constraints.examiner import read_message, write_message
from outrider.core.errors import OptionError, OutriderError
from outrider.core.values import JsonValue
from outrider.sampling.constraint import Constraint

log = logging.getLogger("outrider.server")

_START = 300.0
"""Seconds in which a process must be ready."""
_DYING = 5.0
"""Seconds in which a process that no longer answers may end."""
_SIGXCPU = int(getattr(signal, "SIGXCPU", 0))
"""The signal by which the system ends a process that has used its time."""
_PATIENCE = 24
"""How many times the seconds of the processor a message may take: on a busy machine, a process of
little priority gets a small share of it."""


Vocabulary = Callable[[], tuple[str, tuple[int, ...], int]]
"""Returns tokenizer.json, the end tokens and the size of a vocabulary. Raises `OptionError`."""


class TooSlowError(OptionError):
    """A grammar takes too long."""


class BrokenError(OptionError):
    """A grammar ended the process that examined it."""


@dataclass(slots=True, eq=False)
class Examiners:
    """A few processes, which are started when they are needed. Threads may share it.

    Attributes:
        seconds: of the processor, for each message. On a busy machine a message may take
            longer.
        most: processes.
        memory: bytes of each.
        vocabulary: what each process reads when it starts.
    """

    vocabulary: Vocabulary
    seconds: int = 5
    most: int = 2
    memory: int = 2 << 30
    _idle: "LifoQueue[_Process]" = field(default_factory=LifoQueue)
    _all: "list[_Process]" = field(default_factory=list)
    _closed: bool = False

    def __post_init__(self) -> None:
        for _ in range(self.most):
            process = _Process(self.vocabulary, self.seconds, self.memory)
            self._all.append(process)
            self._idle.put(process)

    def check(self, constraint: Constraint) -> None:
        """Check a grammar in a process; waits for one that is free.

        Raises:
            OptionError: the grammar is not valid, cannot be enforced, takes too long, or breaks its
                engine.
            OutriderError: no process can be started.
        """
        c = constraint
        found = self._ask(["grammar", c.kind, c.source, c.whitespace, c.unsupported])
        if found is not None:
            problem, hint = found
            raise OptionError(problem, hint=hint)

    def valid(self, schema: str, text: str) -> bool | None:
        """Return whether a text is JSON of a schema; None if that cannot be checked."""
        try:
            return self._ask(["text", schema, text])
        except OptionError:
            return None

    def close(self) -> None:
        """End all processes, also those that work."""
        self._closed = True
        for process in self._all:
            process.kill()
        idle = list[_Process]()
        with suppress(Empty):  # a thread that still starts a process keeps it
            while len(idle) < len(self._all):
                idle.append(self._idle.get(timeout=_DYING))
        for process in idle:
            process.end()
            self._idle.put(process)

    @property
    def running(self) -> list[int]:
        """Identifiers of the processes that run."""
        return [pid for process in self._all if (pid := process.pid) is not None]

    def _ask(self, message: JsonValue) -> JsonValue:
        with self._taken() as process:
            try:
                return process.ask(message)
            except OptionError:
                if self._closed:
                    raise OutriderError("the server is shutting down") from None
                raise

    @contextmanager
    def _taken(self) -> "Iterator[_Process]":
        process = self._idle.get()
        try:
            if self._closed:
                raise OutriderError("the server is shutting down")
            yield process
        finally:
            self._idle.put(process)


class _Process:
    """One process. One thread uses it at a time; `kill` may be called by any."""

    def __init__(self, vocabulary: Vocabulary, seconds: int, memory: int) -> None:
        self._vocabulary, self._seconds, self._memory = vocabulary, seconds, memory
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        running = self._running
        return None if running is None or running.poll() is not None else running.pid

    def ask(self, message: JsonValue) -> JsonValue:
        """Return the answer to a message.

        Raises:
            TooSlowError, BrokenError: the process did not answer, and was ended.
            OptionError: the tokenizer cannot be used with a grammar.
            OutriderError: it cannot be started.
        """
        running = self._running
        if running is None or running.poll() is not None:
            running = self._start()
        assert running.stdin is not None and running.stdout is not None
        limit = self._seconds * _PATIENCE
        with _ended_after(running, limit) as late:
            try:
                write_message(running.stdin, message)
                return read_message(running.stdout)
            except (OSError, EOFError, ValueError):
                pass
        with suppress(subprocess.TimeoutExpired):
            running.wait(_DYING)  # its own end tells the reason
        status = self.end()
        if late.is_set() or status == -_SIGXCPU:
            raise TooSlowError(
                f"the grammar takes more than {self._seconds} s to read", hint="Simplify it"
            )
        log.warning("a grammar ended the process that examined it: status %s", status)
        raise BrokenError("the grammar needs too much memory, or breaks its engine")

    def kill(self) -> None:
        """End the process; the thread that uses it finds out."""
        if (running := self._running) is not None:
            running.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.end()
        vocabulary = self._vocabulary()
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        module = "outrider.constraints.examiner"
        try:
            running = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(self._seconds), str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path, "RAYON_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise OutriderError(f"grammars cannot be examined: {error}") from None
        self._running = running
        assert running.stdin is not None and running.stdout is not None
        try:
            with _ended_after(running, _START):
                write_message(running.stdin, vocabulary)
                refusal = read_message(running.stdout)
        except (OSError, EOFError, ValueError):
            status = self.end()
            raise OutriderError(
                f"grammars cannot be examined: a process ended with status {status}"
            ) from None
        if refusal is not None:
            self.end()
            problem, hint = refusal
            raise OptionError(problem, hint=hint)
        return running

    def end(self) -> int | None:
        """End the process and wait for it; return its status."""
        running, self._running = self._running, None
        if running is None:
            return None
        running.kill()
        for pipe in (running.stdin, running.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return running.wait()


@contextmanager
def _ended_after(running: "subprocess.Popen[bytes]", seconds: float) -> Iterator[threading.Event]:
    """Context manager: the process is killed after some seconds; the event tells that it was."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        running.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
