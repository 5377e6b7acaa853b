"""The replicas as the front sees them: which of them are up, and what each has to do."""

import asyncio
import logging
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

from outrider.engine.serving.messages import EngineState, Submission
from outrider.server.replicas.replica import Replica
from outrider.server.replicas.router import Router, hashes
from outrider.server.replicas.states import Report, merged, retired, state_of

log = logging.getLogger("outrider.server")

_PROMPT = 512.0
"""Unread tokens of a prompt that count as much as one sample that is written."""


@dataclass(slots=True, eq=False)
class Place:
    """One replica.

    Attributes:
        replica: the way to it.
        up: it answers, and its engine is well.
        draining: it takes no further requests.
        instance: of its newest report.
        state: of its newest report.
        last_sign: `perf_counter` of its newest report or event.
        lost: is done, with the reason, when the replica is lost; then there is a new one.
        work: for each request, the samples that are open, or their equivalent.
    """

    replica: Replica
    lost: asyncio.Future[str]
    up: bool = False
    draining: bool = False
    instance: str = ""
    state: EngineState = field(default_factory=EngineState)
    last_sign: float = 0.0
    work: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def name(self) -> str:
        """The name of the replica."""
        return self.replica.name


class Places:
    """All replicas, and the choice between them. Its methods run in one event loop."""

    def __init__(self, replicas: list[Replica], router: Router) -> None:
        self._router = router
        self._loop = asyncio.get_running_loop()
        self._places = [Place(one, self._loop.create_future()) for one in replicas]
        self._past = EngineState()
        self._blocks: dict[str, list[bytes]] = {}
        self._news = asyncio.Event()
        self._down_since: float | None = perf_counter()

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def choose(self, submission: Submission, avoid: Set[str]) -> Place | None:
        """Return where a request should run; None if no replica takes requests.

        Args:
            submission: the request.
            avoid: names of replicas that are chosen only if there is no other.
        """
        ready = [place for place in self._places if place.up and not place.draining]
        if not ready:
            return None
        ready = [place for place in ready if place.name not in avoid] or ready
        work = {place.name: sum(place.work.values()) for place in ready}
        name = self._router.choose(work, self._blocks_of(submission), len(submission.prompt))
        return next((place for place in ready if place.name == name), None)

    def enter(self, place: Place, submission: Submission) -> None:
        """Note that a request is sent to a replica."""
        place.work[submission.id] = submission.n + len(submission.prompt) / _PROMPT
        self._router.remember(place.name, self._blocks_of(submission))

    def wrote(self, place: Place, submission: Submission, open: int) -> None:
        """Note that the prompt of a request is read, and that some samples are open."""
        place.work[submission.id] = float(open)

    def finished(self, place: Place, submission: Submission, answer: tuple[int, ...]) -> None:
        """Note that a replica has read an answer too."""
        if ids := reusable(submission):
            known = self._blocks.get(submission.id, ())
            self._router.remember(place.name, hashes((*ids, *answer), submission.salt, known))

    def leave(self, place: Place, submission: Submission) -> None:
        """Note that a request is no longer at a replica."""
        place.work.pop(submission.id, None)
        self._blocks.pop(submission.id, None)

    def reported(self, place: Place, report: Report) -> None:
        """Take the report of a replica."""
        if place.instance not in ("", report.instance):
            self._lose(place, "the replica was restarted")
            self._past = retired(self._past, place.state)
            self._router.forget(place.name)
        place.instance, place.last_sign = report.instance, perf_counter()
        place.state = state_of(report, perf_counter())
        place.draining = report.draining
        if report.sick:
            self._lose(place, report.sick)
        elif not place.up:
            place.up = True
            log.info("replica %s is up", place.name)
        self._changed()

    def silent(self, place: Place, reason: str, patience: float) -> None:
        """Note that a replica has not reported.

        One that still writes, and gave a sign in the last `patience` seconds, gets no further
        requests: Ray Serve lets a replica that is being removed end its streams, but not report.
        """
        if place.work and perf_counter() - place.last_sign < patience:
            place.draining = True
        else:
            self._lose(place, reason)
        self._changed()

    def lose(self, place: Place, reason: str) -> None:
        """Note that a replica is lost. Its requests are sent to others."""
        self._lose(place, reason)
        self._changed()

    async def wait(self, seconds: float) -> None:
        """Wait until something has changed, or for some time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def notify(self) -> None:
        """Wake all that wait."""
        self._news.set()
        self._news = asyncio.Event()

    def state(self) -> EngineState:
        """Return the state of all replicas together."""
        past = self._past
        for place in self._places:
            if not place.up:
                past = retired(past, place.state)
        return merged([place.state for place in self._places if place.up], past)

    @property
    def down(self) -> float:
        """Seconds for which no replica has been up."""
        return 0.0 if self._down_since is None else perf_counter() - self._down_since

    def _blocks_of(self, submission: Submission) -> list[bytes]:
        """Return the hashes of a prompt, which are kept until the request leaves."""
        if (found := self._blocks.get(submission.id)) is None:
            found = hashes(reusable(submission), submission.salt)
            self._blocks[submission.id] = found
        return found

    def _lose(self, place: Place, reason: str) -> None:
        if not place.up:
            return
        log.warning("replica %s is lost: %s", place.name, reason)
        place.up = False
        place.lost.set_result(reason)
        place.lost = self._loop.create_future()

    def _changed(self) -> None:
        if any(place.up for place in self._places):
            self._down_since = None
        elif self._down_since is None:
            self._down_since = perf_counter()
        self.notify()


def reusable(submission: Submission) -> tuple[int, ...]:
    """Return the ids of a prompt whose beginning an engine reuses; empty for images and parts."""
    prompt = submission.prompt
    parts = (prompt.embeddings, prompt.positions, prompt.context, prompt.axes, prompt.image_prompt)
    return prompt.token_ids if all(part is None for part in parts) else ()
