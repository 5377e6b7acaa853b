"""An engine that also runs searches (`outrider.search`), one at a time, on its own thread.

A search asks before each of its forwards whether it must end. The engine answers after a step of
all other requests, so that these go on beside it and models are used by one thread only.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import perf_counter

from outrider.core.errors import OutriderError
from outrider.engine.generator import Generator
from outrider.engine.serving.engine import Engine, Publish
from outrider.engine.serving.settings import ServingSettings
from outrider.policies.surface import CostSurface
from outrider.search import SearchResult

Ends = Callable[[], bool]


class SearchNotRunError(OutriderError):
    """A search that was not begun: it waited too long, or the engine ended."""


@dataclass(slots=True, kw_only=True, eq=False)
class SearchJob:
    """A search for the engine thread.

    Attributes:
        run: runs it, given a function that says whether it must end.
        begin_by: `perf_counter` until which it may wait.
        result: its result, or its error.
        cancelled: set it to end the search; what was found is its result.
    """

    run: Callable[[Ends], SearchResult]
    begin_by: float
    result: "Future[SearchResult]" = field(default_factory=Future)
    cancelled: bool = False


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
        self._wanted: SimpleQueue[SearchJob] = SimpleQueue()
        self._open: deque[SearchJob] = deque()
        self._searching = False
        self._broken: BaseException | None = None

    def search(self, job: SearchJob) -> None:
        """Put a search into the queue; may be called from any thread."""
        self._open.append(job)
        self._wanted.put(job)
        self.cancel("")  # wakes the thread; no request has this identifier

    @property
    def searches(self) -> int:
        """Searches that have not ended."""
        return len(self._open)

    def step(self) -> None:
        """Run one step, and then a search if one waits."""
        super().step()
        if not self._searching:
            self._next_search()

    def _run(self) -> None:
        try:
            super()._run()
        finally:
            while self._open:
                job = self._open.popleft()
                _refuse(job, "the engine has ended")

    def _next_search(self) -> None:
        try:
            job = self._wanted.get_nowait()
        except Empty:
            return
        self._searching = True
        try:
            self._work(job)
        finally:
            self._searching = False
            self._open.remove(job)
        if self._broken is not None:
            raise self._broken

    def _work(self, job: SearchJob) -> None:
        if job.cancelled or perf_counter() > job.begin_by:
            _refuse(job, "the search waited too long")
            return

        def ends() -> bool:
            try:
                super(SearchingEngine, self).step()
            except BaseException as error:  # of other requests: it ends the engine, not this search
                self._broken = error
            return job.cancelled or self._broken is not None or self._stopping is not None

        try:
            job.result.set_result(job.run(ends))
        except Exception as error:  # whatever a search raises is told to who asked for it
            job.result.set_exception(error)


def _refuse(job: SearchJob, reason: str) -> None:
    if not job.result.done():
        job.result.set_exception(SearchNotRunError(reason, hint="Try again later"))
