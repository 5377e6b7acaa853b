"""`RemoteEngine`: several engines in other processes, used like one.

Each request runs on one replica. If that replica is lost, another one writes the text again, and
what the client has is left out: with an exact mode, the same seed gives the same text everywhere.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from time import perf_counter

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import in_short
from outrider.engine.serving.messages import Ended, EngineState, Event, Piece, Submission, Timing
from outrider.engine.serving.scheduler import slots_of
from outrider.server.replicas.places import Place, Places
from outrider.server.replicas.replica import Replica, ReplicaLostError
from outrider.server.replicas.request import Request, may_run_elsewhere
from outrider.server.replicas.router import Router, RouterSettings
from outrider.server.replicas.transcript import DivergedError, Transcript

log = logging.getLogger("outrider.server")

_CLOSE = 2.0
"""Seconds in which a stream that is no longer read may end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """How replicas are used.

    Attributes:
        retries: how often a request is sent again, after a replica was lost.
        wait: seconds for which a request waits for a replica when there is none.
        every: seconds between two reports of a replica.
        answer: seconds in which a replica must report, or accept a request.
        give_up: seconds without any replica after which the engine counts as dead.
        router: how a replica is chosen.

    Raises:
        OptionError: a number out of range.
    """

    retries: int = 3
    wait: float = 60.0
    every: float = 0.5
    answer: float = 10.0
    give_up: float = 180.0
    router: RouterSettings = field(default_factory=RouterSettings)

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)


class _FailedError(Exception):
    """A replica has given up a request, and another one may run it."""


class RemoteEngine:
    """Runs requests on replicas. Its public methods may be called from any thread."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        settings: ReplicaSettings | None = None,
        *,
        publish: Callable[[Sequence[Event]], None],
    ) -> None:
        """Prepare the engine; `start` begins its thread.

        Args:
            replicas: the engines.
            settings: how they are used.
            publish: called, on the engine's thread, with what became final.
        """
        self._replicas = list(replicas)
        self._settings = settings or ReplicaSettings()
        self._publish = publish
        self._requests: dict[str, Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._state = EngineState(heartbeat=perf_counter())
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: asyncio.Future[str]
        self._places: Places

    # -- for other threads ------------------------------------------------------------------

    def start(self) -> None:
        """Begin the thread."""
        self._loop = self._runner.get_loop()
        self._end = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="outrider-replicas", daemon=True)
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Send a request to a replica."""
        if not self._call(lambda: self._begin(submission)):
            one = Request(submission, Transcript(submission.id, submission.n))
            self._finish(one, "draining", "the server is shutting down")

    def cancel(self, id: str) -> None:
        """End a request, whatever it is doing."""
        self._call(lambda: self._cancel(id))

    def stop(self, message: str = "", timeout: float = 30.0) -> None:
        """End all requests and the thread. The replicas run on."""
        reason = message or "the server is shutting down"
        self._call(lambda: self._end.done() or self._end.set_result(reason))
        if self._thread is not None:
            self._thread.join(timeout)

    def capacity_for(self, tokens: int) -> bool:
        """Whether every replica can run a request of `tokens`, prompt and answer."""
        return all(slots_of(tokens) <= one.cache_size for one in self._replicas)

    @property
    def state(self) -> EngineState:
        """The newest reports of all replicas, as one."""
        return self._state

    def _call(self, what: Callable[[], object]) -> bool:
        """Call a function in the thread; return whether the thread accepts calls."""
        with suppress(RuntimeError):  # the loop is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(what)
                return True
        return False

    # -- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        dead = "stopped"
        try:
            with self._runner as runner:
                runner.run(self._main())
        except BaseException as error:  # whatever ends the thread, its clients must be told
            dead = in_short(error)
            log.exception("the thread of the replicas ended")
        finally:
            failure = "draining" if dead == "stopped" else "engine_error"
            message = self._end.result() if self._end.done() else dead
            for one in list(self._requests.values()):
                self._finish(one, failure, message)
            self._state = replace(self._state, dead=dead)

    async def _main(self) -> None:
        self._places = Places(self._replicas, Router(self._settings.router))
        watching = [asyncio.create_task(self._watch(place)) for place in self._places]
        ended = asyncio.gather(*watching)
        await asyncio.wait((self._end, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in (*watching, *self._tasks):
            task.cancel()
        await asyncio.wait((*watching, *self._tasks), timeout=_CLOSE)
        with suppress(asyncio.CancelledError):
            await ended

    async def _watch(self, place: Place) -> None:
        """Ask a replica for reports."""
        settings = self._settings
        while not self._end.done():
            try:
                async with asyncio.timeout(settings.answer):
                    report = await place.replica.report()
            except TimeoutError:
                reason = f"no report in {settings.answer:g} s"
                self._places.silent(place, reason, settings.answer)
            except ReplicaLostError as error:
                self._places.silent(place, str(error), settings.answer)
            else:
                self._places.reported(place, report)
            self._refresh()
            await asyncio.sleep(settings.every)

    def _refresh(self) -> None:
        down = self._places.down
        dead = f"no replica for {down:.0f} s" if down > self._settings.give_up else ""
        self._state = replace(self._places.state(), dead=dead)

    # -- requests ---------------------------------------------------------------------------

    def _begin(self, submission: Submission) -> None:
        one = Request(submission, Transcript(submission.id, submission.n))
        self._requests[submission.id] = one
        if self._end.done():
            self._finish(one, "draining", self._end.result())
            return
        task = asyncio.get_running_loop().create_task(self._serve(one))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self, id: str) -> None:
        one = self._requests.get(id)
        if one is None or one.cancelled:
            return
        one.cancelled = True
        self._places.notify()
        if one.place is not None:
            task = asyncio.get_running_loop().create_task(self._tell(one.place, one.name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell(self, place: Place, name: str) -> None:
        """Cancel a request at its replica."""
        with suppress(ReplicaLostError):
            await place.replica.cancel(name)

    async def _serve(self, one: Request) -> None:
        """Run a request to its end, on as many replicas as it takes."""
        try:
            failure, message = await self._tried(one)
        except DivergedError:
            failure = "engine_error"
            message = "another replica continued the answer, and wrote another text"
            log.error("%s: %s", one.submission.id, message)
        except Exception as error:  # of this request: others are served
            log.exception("a request failed")
            failure, message = "engine_error", f"{type(error).__name__}: {error}"
        self._finish(one, failure, message)

    async def _tried(self, one: Request) -> tuple[str, str]:
        """Run a request; return the failure and the message of samples that have not ended.

        Raises:
            DivergedError: a replica wrote another text than the one before it.
        """
        while (place := await self._chosen(one)) is not None:
            try:
                await self._attempt(one, place)
                return "", ""
            except ReplicaLostError as error:
                self._places.lose(place, str(error))
                reason = str(error)
            except _FailedError as error:
                reason = str(error)
            if one.cancelled:
                return "", ""
            one.attempt += 1
            one.avoid.add(place.name)
            if one.attempt > self._settings.retries:
                return "engine_error", f"{one.attempt} replicas failed, the last one: {reason}"
            log.warning("%s is sent again: %s: %s", one.submission.id, place.name, reason)
        return ("", "") if one.cancelled else (one.too_late(), "there is no replica")

    async def _chosen(self, one: Request) -> Place | None:
        """Return where a request runs next; None if there is no replica in time."""
        until = one.until(perf_counter() + self._settings.wait)
        while not one.cancelled:
            if (place := self._places.choose(one.submission, one.avoid)) is not None:
                return place
            if (left := until - perf_counter()) <= 0:
                return None
            await self._places.wait(left)
        return None

    async def _attempt(self, one: Request, place: Place) -> None:
        """Run a request on one replica.

        Raises:
            ReplicaLostError: the replica was lost.
            _FailedError: the replica gave the request up.
            DivergedError: its text differs from what was delivered.
        """
        one.place, lost = place, place.lost
        one.transcript.restart()
        self._places.enter(place, one.submission)
        reading = asyncio.create_task(self._read(one, place))
        try:
            await asyncio.wait((reading, lost), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise ReplicaLostError(lost.result())
            if reading.cancelled():
                raise ReplicaLostError("a stream was cancelled")
            reading.result()
        finally:
            reading.cancel()
            await asyncio.wait((reading,), timeout=_CLOSE)
            one.place = None
            self._places.leave(place, one.submission)

    async def _read(self, one: Request, place: Place) -> None:
        """Deliver the events of one replica."""
        async with aclosing(place.replica.stream(one.sent())) as stream:
            try:
                async with asyncio.timeout(self._settings.answer):
                    await anext(stream)  # the replica has accepted the request
            except StopAsyncIteration:
                raise ReplicaLostError("a stream ended too early") from None
            except TimeoutError:
                raise _FailedError(f"not accepted in {self._settings.answer:g} s") from None
            async for events in stream:
                place.last_sign = perf_counter()
                self._deliver(one, place, events)
        if one.transcript.open:
            raise ReplicaLostError("a stream ended too early")

    def _deliver(self, one: Request, place: Place, events: Sequence[Event]) -> None:
        """Publish what is new.

        What came together with a failure is left out: the end of a text may release characters that
        were held back, and the text of the next replica continues otherwise.
        """
        ends = [event for event in events if isinstance(event, Ended)]
        failed = {end.index: end.message for end in ends if may_run_elsewhere(end)}
        fresh = one.transcript.take([event for event in events if event.index not in failed])
        for event in fresh:
            if isinstance(event, Ended) and event.result is not None:
                self._places.finished(place, one.submission, event.result.token_ids)
        if any(isinstance(event, Piece) for event in events):
            self._places.wrote(place, one.submission, len(one.transcript.open))
        if fresh:
            self._publish(fresh)
        if failed:
            raise _FailedError(next(iter(failed.values())))

    def _finish(self, one: Request, failure: str, message: str) -> None:
        """End the samples that have not ended."""
        self._requests.pop(one.submission.id, None)
        total = perf_counter() - one.submission.received
        ended = [
            Ended(
                id=one.submission.id,
                index=index,
                result=None,
                timing=Timing(total=total),
                failure=failure,
                message=message,
                phase="writing" if one.transcript.begun else "waiting",
            )
            for index in one.transcript.open
        ]
        if ended:
            self._publish(ended)


_RANGES = {
    "retries": Range(0, whole=True),
    "wait": Range(0.0),
    "every": Range(0.0, above=True),
    "answer": Range(0.0, above=True),
    "give_up": Range(0.0),
}
