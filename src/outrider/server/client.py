"""The side of the engine that lives in the event loop: submissions go in, events come out."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Protocol

from outrider.engine.serving.messages import Ended, EngineState, Event, Piece, Submission
from outrider.server.mailbox import Mailbox

Observer = Callable[[Event], None]
"""Sees every event in the loop, such as the histograms of metrics."""


class ServingEngine(Protocol):
    """What the server needs of the engine (`outrider.engine.serving.engine`)."""

    def start(self) -> None:
        """Start the thread."""
        ...

    def submit(self, submission: Submission) -> None:
        """Add a request; returns at once."""
        ...

    def cancel(self, id: str) -> None:
        """End a request after the running round."""
        ...

    def stop(self, message: str = "") -> None:
        """End all requests, and the thread."""
        ...

    def capacity_for(self, tokens: int) -> bool:
        """Whether a request of `tokens`, prompt and answer, can run when it is alone."""
        ...

    @property
    def state(self) -> EngineState:
        """A recent snapshot."""
        ...


class EngineClient:
    """Connects requests with the engine thread.

    Its methods run in the event loop, except `publish`, which the engine thread calls once in each
    step.

    Attributes:
        observers: see every event.
        step_observers: see the state of the engine after steps that wrote something.
        busy_since: `perf_counter` when the first of the open requests was submitted.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: ServingEngine | None = None
        self._boxes: dict[str, Mailbox] = {}
        self._left: dict[str, int] = {}
        self._unread: dict[str, int] = {}
        self.observers: list[Observer] = []
        self.step_observers: list[Callable[[EngineState], None]] = []
        self.busy_since = 0.0

    def attach(self, engine: ServingEngine, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Set the engine, and the loop in which its events are delivered."""
        self._engine, self._loop = engine, loop

    @property
    def engine(self) -> ServingEngine:
        """The engine."""
        assert self._engine is not None
        return self._engine

    @property
    def state(self) -> EngineState:
        """A recent snapshot of the engine."""
        return self.engine.state

    @property
    def open(self) -> int:
        """Samples that have not ended."""
        return sum(self._left.values())

    @property
    def unread_tokens(self) -> int:
        """Tokens of prompts that no sample has answered yet."""
        return sum(self._unread.values())

    def publish(self, events: Sequence[Event]) -> None:
        """Hand the events of one step to the loop; called by the engine thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._deliver, tuple(events))

    def submit(self, submissions: Sequence[Submission]) -> Mailbox:
        """Send the submissions of one request; return where their events arrive."""
        offsets: dict[str, int] = {}
        count = 0
        for one in submissions:
            offsets[one.id] = count
            count += one.n
        if not self._left:
            self.busy_since = perf_counter()
        box = Mailbox(offsets, count)
        for one in submissions:
            self._boxes[one.id], self._left[one.id] = box, one.n
            self._unread[one.id] = len(one.prompt)
            self.engine.submit(one)
        return box

    def cancel(self, box: Mailbox) -> bool:
        """End what is left of a request; return whether anything was."""
        left = [id for id in box.offsets if self._left.get(id)]
        for id in left:
            self.engine.cancel(id)
        return bool(left)

    def fail(self, message: str) -> None:
        """End all requests, because the engine is dead and does not do it."""
        for id, box in list(self._boxes.items()):
            ended = Ended(id=id, index=0, result=None, failure="engine_error", message=message)
            for _ in range(self._left.pop(id, 0)):
                box.put(ended)
            self._forget(id)

    @property
    def heartbeat_age(self) -> float:
        """Seconds without a step although there is work."""
        if not self._left:
            return 0.0
        return max(perf_counter() - max(self.state.heartbeat, self.busy_since), 0.0)

    def _deliver(self, events: tuple[Event, ...]) -> None:
        for look in self.step_observers:
            look(self.state)
        for event in events:
            for observe in self.observers:
                observe(event)
            box = self._boxes.get(event.id)
            if box is None:
                continue
            box.put(event)
            if isinstance(event, Piece):
                self._unread.pop(event.id, None)
            else:
                self._left[event.id] -= 1
                if not self._left[event.id]:
                    self._forget(event.id)

    def _forget(self, id: str) -> None:
        for table in (self._boxes, self._left, self._unread):
            table.pop(id, None)
