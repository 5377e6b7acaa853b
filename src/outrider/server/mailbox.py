"""The events of one request on their way from the engine to the client."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outrider.engine.serving.messages import Ended, Event, Piece


@dataclass(slots=True, eq=False)
class Mailbox:
    """What the engine has said about one request and nobody has read yet.

    Pieces of one sample that wait are merged when they are read. So a client that reads slowly
    costs the memory of its answer at most, and the engine never waits.

    Attributes:
        offsets: by id of a submission, the index of its first sample in the answer.
        open: samples that have not ended.
        left: the client closed the connection.
    """

    offsets: dict[str, int]
    open: int
    left: bool = False
    _waiting: list[Event] = field(default_factory=list[Event])
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, event: Event) -> None:
        """Add an event. The index of its sample becomes that in the answer."""
        offset = self.offsets[event.id]
        self._waiting.append(replace(event, index=event.index + offset) if offset else event)
        if isinstance(event, Ended):
            self.open -= 1
        self._arrived.set()

    def leave(self) -> None:
        """Note that the client closed the connection."""
        self.left = True
        self._arrived.set()

    async def take(self) -> list[Event]:
        """Return all events that wait, at least one; an empty list at the end, or if the client
        left."""
        if self.left or (not self._waiting and not self.open):
            return []
        await self._arrived.wait()
        self._arrived.clear()
        waiting, self._waiting = self._waiting, []
        return merged(waiting)


def merged(events: Sequence[Event]) -> list[Event]:
    """Return events with one piece for each sample, before its end."""
    if len(events) < 2:
        return list(events)
    found: list[Event] = []
    pieces: dict[tuple[str, int], list[Piece]] = {}
    for event in events:
        if isinstance(event, Piece):
            pieces.setdefault((event.id, event.index), []).append(event)
    written: set[tuple[str, int]] = set()
    for event in events:
        key = (event.id, event.index)
        if isinstance(event, Ended):
            found.append(event)
        elif key not in written:
            written.add(key)
            found.append(_joined(pieces[key]))
    return found


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return replace(
        pieces[0],
        text="".join(p.text for p in pieces),
        token_ids=tuple(t for p in pieces for t in p.token_ids),
        sources=tuple(s for p in pieces for s in p.sources),
        logprobs=tuple(one for p in pieces for one in p.logprobs),
        ends=tuple(e for p in pieces for e in p.ends),
        spans=tuple(s for p in pieces for s in p.spans),
        prompt_logprobs=next(
            (p.prompt_logprobs for p in pieces if p.prompt_logprobs is not None), None
        ),
    )
