"""An engine that also runs searches (`outrider.search`), one at a time, on its own thread.

A search asks before each of its forwards whether it must end. The engine answers after a step of
all other requests, so that these go on beside it and models are used by one thread only. Its prompt
is read in parts, as those of other requests are.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

from outrider.core.errors import OutriderError
from outrider.engine.generator import Generator
from outrider.engine.serving.engine import Engine, Publish
from outrider.engine.serving.settings import ServingSettings
from outrider.policies.surface import CostSurface
from outrider.search import SearchResult


class SearchNotRunError(OutriderError):
    """A search that was not begun: it waited too long, or the engine ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a search asks the engine beside whose requests it runs.

    Attributes:
        ends: runs a step of all other requests, and returns whether the search must end.
        rows: returns how many tokens of its prompt the next forward may read.
    """

    ends: Callable[[], bool]
    rows: Callable[[], int]


@dataclass(slots=True, kw_only=True, eq=False)
class SearchJob:
    """A search for the engine thread.

    Attributes:
        run: runs it beside other requests.
        begin_by: `perf_counter` until which it may wait.
        result: its result, or its error.
        cancelled: set it to end the search; what was found is its result.
        begun: whether it runs or has run.
    """

    run: Callable[[Beside], SearchResult]
    begin_by: float
    result: "Future[SearchResult]" = field(default_factory=Future)
    cancelled: bool = False
    begun: bool = False

    def refuse(self, reason: str) -> None:
        """Answer with an error, unless it has an answer."""
        with suppress(InvalidStateError):
            self.result.set_exception(SearchNotRunError(reason, hint="Try again later"))


class SearchingEngine(Engine):
    """The engine, with searches."""

    def __init__(
        self,
        generator: Generator,
        settings: ServingSettings | None = None,
        *,
        publish: Publish,
        costs: CostSurface | None = None,
    ) -> None:
        """Prepare the engine; see `Engine`."""
        super().__init__(generator, settings, publish=publish, costs=costs)
        self._open: deque[SearchJob] = deque()
        self._searching = False
        self._broken: BaseException | None = None

    def search(self, job: SearchJob) -> None:
        """Put a search into the queue; may be called from any thread."""
        self._open.append(job)
        if self._stopping is not None or (self._thread is not None and not self.alive):
            self._forget(job, "the engine has ended")
        self.wake()

    def wake(self) -> None:
        """Let the engine look at its searches, such as those that were cancelled."""
        self.cancel("")  # no request has this identifier

    @property
    def searches(self) -> int:
        """Searches that somebody waits for."""
        return sum(not job.cancelled for job in list(self._open))

    def step(self) -> None:
        """Run one step, and then a search if one waits."""
        super().step()
        if not self._searching:
            self._next_search()

    def _wait(self) -> None:
        if not self._open:
            super()._wait()

    def _run(self) -> None:
        try:
            super()._run()
        finally:
            for job in list(self._open):
                self._forget(job, "the engine has ended")

    def _expire_searches(self) -> None:
        """Answer searches that have waited too long or that nobody waits for."""
        for job in list(self._open):
            if not job.begun and (job.cancelled or perf_counter() > job.begin_by):
                self._forget(job, "the search waited too long")

    def _forget(self, job: SearchJob, reason: str) -> None:
        job.refuse(reason)
        with suppress(ValueError):  # another thread was faster
            self._open.remove(job)

    def _next_search(self) -> None:
        self._expire_searches()
        job = next(iter(list(self._open)), None)
        if job is None:
            return
        self._searching = True
        try:
            self._work(job)
        finally:
            self._searching = False
            self._forget(job, "the search was ended")
        if self._broken is not None:
            raise self._broken

    def _work(self, job: SearchJob) -> None:
        if not job.result.set_running_or_notify_cancel():
            return
        job.begun = True

        def ends() -> bool:
            try:
                super(SearchingEngine, self).step()
            except BaseException as error:  # of other requests: it ends the engine, not this search
                self._broken = error
            self._expire_searches()
            return job.cancelled or self._broken is not None or self._stopping is not None

        try:
            job.result.set_result(job.run(Beside(ends=ends, rows=self._rows)))
        except Exception as error:  # whatever a search raises is told to who asked for it
            job.result.set_exception(error)

    def _rows(self) -> int:
        """Return how many tokens of a prompt a forward of a search may read: as many as a step of
        the requests that write now would."""
        own = {id(generation) for generation in self._session.generations}
        writing = [one for one in self._samples.values() if id(one.generation) in own]
        return self._drafting.rows_for_reading(writing)
