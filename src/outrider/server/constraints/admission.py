"""Grammars of requests are examined, compiled and kept before the engine hears of the request."""

import asyncio
import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from outrider.constraints.examiners import BrokenError, Examiners, TooSlowError
from outrider.constraints.grammars import Grammars
from outrider.core.errors import OptionError, OutriderError
from outrider.sampling.constraint import Constraint
from outrider.server.constraints.fields import Asked, refused
from outrider.server.errors import retry_later
from outrider.server.metrics import Metrics

log = logging.getLogger("outrider.server")

_WORKERS = 2
"""Grammars that are examined at once."""
_WAITING = 32
"""Grammars that may wait to be examined, or are."""
_TEXTS = 64
"""Finished texts that may wait to be checked; further ones are not checked."""
_KEPT, _KEPT_SIZE, _KEPT_SECONDS = 256, 4 << 20, 60.0
"""Refusals that are kept: how many, characters of their grammars, and for how long."""


@dataclass(slots=True)
class Refusals:
    """Grammars that were refused a short while ago."""

    _known: OrderedDict[Constraint, tuple[float, OptionError]] = field(default_factory=OrderedDict)
    _size: int = 0

    def get(self, constraint: Constraint) -> OptionError | None:
        """Return the error of a grammar that was refused, or None."""
        until, error = self._known.get(constraint, (0.0, None))
        return error if time.monotonic() < until else None

    def put(self, constraint: Constraint, error: OptionError) -> None:
        """Keep an error."""
        self._drop(constraint)
        self._known[constraint] = (time.monotonic() + _KEPT_SECONDS, error)
        self._size += len(constraint.source)
        while len(self._known) > _KEPT or self._size > _KEPT_SIZE:
            self._drop(next(iter(self._known)))

    def _drop(self, constraint: Constraint) -> None:
        if self._known.pop(constraint, None) is not None:
            self._size -= len(constraint.source)


class Admission:
    """Decides whether the engine gets a grammar. Its methods run in the event loop.

    A grammar is first read, compiled and tried in a process of its own (`Examiners`), and then
    compiled in a thread here. Many requests that ask for the same grammar wait for one compilation.
    """

    def __init__(self, grammars: Grammars, metrics: Metrics, seconds: int) -> None:
        """Start nothing yet.

        Args:
            grammars: of the target.
            metrics: where refusals and times are counted.
            seconds: that a grammar may take.
        """
        self._grammars, self._metrics = grammars, metrics
        self._examiners = Examiners(grammars.vocabulary, seconds, most=_WORKERS)
        self._pool = ThreadPoolExecutor(_WORKERS, "outrider-grammars")
        self._checks = ThreadPoolExecutor(1, "outrider-texts")  # no request waits for these
        self._waiting: dict[Constraint, asyncio.Future[OutriderError | None]] = {}
        self._refusals = Refusals()
        self._texts = 0

    async def admit(self, asked: Asked) -> None:
        """Return when the grammar of a request is compiled and kept.

        Raises:
            ApiError: it is refused, or too many grammars wait.
        """
        constraint, metrics = asked.constraint, self._metrics
        error = self._refusals.get(constraint)
        if error is not None or self._grammars.knows(constraint):
            metrics.grammar_known()
        else:
            error = await self._examined(constraint)
        if isinstance(error, OptionError):
            metrics.grammar_refused(reason_of(error))
            raise refused(error, asked.field)
        if error is not None:
            raise error

    def check(self, constraint: Constraint, text: str) -> None:
        """Check a finished text against its JSON schema, later and elsewhere, if it is possible."""
        if constraint.kind != "json" or constraint.gate is not None or self._texts >= _TEXTS:
            return
        self._texts += 1
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._checks, self._checked, constraint.source, text)
        done.add_done_callback(self._told)

    def close(self) -> None:
        """End the processes and threads."""
        self._examiners.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._checks.shutdown(wait=False, cancel_futures=True)

    @property
    def processes(self) -> list[int]:
        """Identifiers of the processes that run."""
        return self._examiners.running

    async def _examined(self, constraint: Constraint) -> OutriderError | None:
        """Examine and compile a grammar, once for all that ask; return why it is refused."""
        waiting = self._waiting.get(constraint)
        if waiting is None:
            if len(self._waiting) >= _WAITING:
                self._metrics.refused("queue_full")
                raise retry_later(429, "queue_full", "too many new grammars are waiting", 5.0)
            loop = asyncio.get_running_loop()
            waiting = loop.run_in_executor(self._pool, self._made, constraint)
            self._waiting[constraint] = waiting
            waiting.add_done_callback(lambda _: self._waiting.pop(constraint))
        error = await asyncio.shield(waiting)
        if isinstance(error, OptionError):
            self._refusals.put(constraint, error)
        return error

    def _made(self, constraint: Constraint) -> OutriderError | None:
        """Examine and compile a grammar; in a thread."""
        begun = time.perf_counter()
        try:
            self._examiners.check(constraint)
            self._grammars.of(constraint)
        except OutriderError as error:
            return error
        except BaseException as error:  # of native code, which may raise anything
            log.exception("a grammar could not be compiled")
            return OptionError(f"the grammar is refused: {type(error).__name__}")
        finally:
            self._metrics.grammar_seconds(time.perf_counter() - begun)
        return None

    def _checked(self, schema: str, text: str) -> bool | None:
        try:
            return self._examiners.valid(schema, text)
        except OutriderError:  # no process can be started
            return None

    def _told(self, done: "asyncio.Future[bool | None]") -> None:
        self._texts -= 1
        if not done.cancelled() and done.exception() is None:
            self._metrics.text_checked(valid=done.result())


def reason_of(error: OptionError) -> str:
    """Return why a grammar is refused, as metrics name it."""
    kinds = {TooSlowError: "slow", BrokenError: "broken"}
    return kinds.get(type(error), "invalid")
