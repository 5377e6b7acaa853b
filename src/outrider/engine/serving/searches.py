"""An engine that also runs searches (`outrider.search`), one at a time, on its own thread.

A search asks before each of its forwards whether it must end. The engine answers after a step of
all other requests, so that these go on beside it and models are used by one thread only. Its prompt
is read in parts, as those of other requests are. Principals pay for searches and for other requests
from one account; `jobs.py` says which search is next.
"""

from collections import deque
from contextlib import suppress
from time import perf_counter

from outrider.engine.generator import Generator
from outrider.engine.serving.engine import Engine, Publish
from outrider.engine.serving.jobs import Beside, SearchJob, next_job, replaced_for
from outrider.engine.serving.settings import ServingSettings
from outrider.policies.surface import CostSurface


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
        self._principals: set[str] = set()
        self._broken: BaseException | None = None

    def search(self, job: SearchJob, places: int | None = None) -> bool:
        """Put a search into the queue; may be called from any thread, by one at a time.

        Args:
            job: the search.
            places: how many searches may be open; None: any number.

        Returns:
            Whether it has a place: a free one, or that of another search, which is refused.
        """
        others = [one for one in list(self._open) if one.has_place]
        if places is not None and len(others) >= places:
            other = replaced_for(job, others, places)
            if other is None:
                return False
            other.replaced = True
        self._open.append(job)
        if self._stopping is not None or (self._thread is not None and not self.alive):
            self._forget(job, "the engine has ended")
        self.wake()
        return True

    def wake(self) -> None:
        """Let the engine look at its searches, such as those that were cancelled."""
        self.cancel("")  # no request has this identifier

    @property
    def searches(self) -> int:
        """Searches that somebody waits for."""
        return sum(job.has_place for job in list(self._open))

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

    def _look(self) -> None:
        """Take note of who searches, and answer searches that have waited too long, that lost their
        place or that nobody waits for."""
        jobs = list(self._open)
        before, self._principals = self._principals, {job.principal for job in jobs}
        for principal in self._principals - before:
            entries = self._scheduler.entries.values()
            self._scheduler.arrive(principal, before | {entry.principal for entry in entries})
        for job in [job for job in jobs if not job.begun]:
            if not job.has_place:
                self._forget(job, "others took the place of the search")
            elif perf_counter() > job.begin_by:
                self._forget(job, "the search waited too long")

    def _forget(self, job: SearchJob, reason: str) -> None:
        job.refuse(reason)
        with suppress(ValueError):  # another thread was faster
            self._open.remove(job)

    def _next_search(self) -> None:
        self._look()
        paid, patience = self._scheduler.paid, self.settings.patience
        job = next_job(list(self._open), perf_counter(), paid, patience)
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
            self._look()
            return job.cancelled or self._broken is not None or self._stopping is not None

        try:
            found = job.run(Beside(ends=ends, rows=self._rows))
        except Exception as error:  # whatever a search raises is told to who asked for it
            self._scheduler.charge(job.principal, job.due(None))
            job.result.set_exception(error)
        else:
            self._scheduler.charge(job.principal, job.due(found))
            job.result.set_result(found)

    def _rows(self) -> int:
        """Return how many tokens of a prompt a forward of a search may read: as many as a step of
        the requests that write now would."""
        own = {id(generation) for generation in self._session.generations}
        writing = [one for one in self._samples.values() if id(one.generation) in own]
        return self._drafting.rows_for_reading(writing)
