"""A process that measures schemas, and is ended if one takes too long.

Engines are native code, which nothing else stops. The limit counts the time of the processor, so
that a busy machine does not change what is counted as slow.
"""

import math
import multiprocessing
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import process_time
from typing import Self

from outrider.bench.constraints.cases import Case
from outrider.bench.constraints.engines import Vocabulary
from outrider.core.errors import OptionError, OutriderError
from outrider.core.values import JsonValue

_START_SECONDS = 600.0

_WAITS = 60.0
"""Seconds of the clock for each second of the processor: who waits longer is taken for hung."""


class Child:
    """Measures with one engine in a process of its own, which is started when it is needed."""

    def __init__(self, engine: str, vocabulary: Vocabulary, seconds: float) -> None:
        """Start nothing yet.

        Args:
            engine: see `ENGINES`.
            vocabulary: of the model.
            seconds: of the processor, rounded up, for one schema with all its instances.
        """
        self.engine, self._vocabulary, self._seconds = engine, vocabulary, seconds
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def measure(self, case: Case) -> dict[str, JsonValue]:
        """Return a record; its `outcome` is `slow` or `crash` if the process had to be replaced.

        Raises:
            OptionError: the engine cannot be started.
        """
        pipe = self._pipe or self._start()
        outcome = "slow"
        try:
            pipe.send(case)
            if pipe.poll(_WAITS * max(1.0, self._seconds)):
                return pipe.recv()
        except (EOFError, OSError):
            outcome = "slow" if self._over_time() else "crash"
        self.close()
        base = {"engine": self.engine, "split": case.split, "id": case.id}
        return base | {"bytes": len(case.schema.encode()), "outcome": outcome, "reason": outcome}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _over_time(self) -> bool:
        """Whether the system ended the process at its limit."""
        if self._process is None or sys.platform == "win32":
            return False
        self._process.join(_WAITS)
        return self._process.exitcode == -signal.SIGXCPU

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        own, other = context.Pipe()
        arguments = (other, self.engine, self._vocabulary, self._seconds)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        other.close()
        self._process, self._pipe = process, own
        try:
            problem = own.recv() if own.poll(_START_SECONDS) else "it does not answer"
        except (EOFError, OSError):
            problem = "its process ended"
        if problem is not None:
            self.close()
            raise OptionError(f"the engine {self.engine} does not start: {problem}")
        return own


def _serve(pipe: Connection, engine: str, vocabulary: Vocabulary, seconds: float) -> None:
    """Answer each case with its record, until the other end is closed."""
    try:
        from outrider.bench.constraints.measure import Meter

        meter = Meter(engine, vocabulary)
    except (OutriderError, ImportError) as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    try:
        while True:
            case = pipe.recv()
            _limit(seconds)
            pipe.send(meter.measure(case))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _limit(seconds: float) -> None:
    """Let the system end this process after so much more time of the processor, without a file of
    its memory."""
    if sys.platform != "win32":
        import resource

        wanted = {
            resource.RLIMIT_CPU: math.ceil(process_time() + seconds),
            resource.RLIMIT_CORE: 0,
        }
        for which, value in wanted.items():
            resource.setrlimit(which, (value, resource.getrlimit(which)[1]))
