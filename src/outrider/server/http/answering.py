"""Answers in one piece and as a stream: both watch the client and cancel what nobody reads."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from outrider.engine.serving.messages import Ended, Event, Piece
from outrider.server.answers.writer import Json, Writer
from outrider.server.context import Context
from outrider.server.errors import ApiError, crashed, from_failure
from outrider.server.http.leaving import ClientLeft, watched
from outrider.server.http.protocol import ABORT
from outrider.server.mailbox import Mailbox
from outrider.server.sse import HEADERS, PING

log = logging.getLogger("outrider.server")

_WAITING, _WRITING = "waiting", "writing"


@dataclass(slots=True, eq=False)
class Exchange:
    """One request at the engine: its events, and what they become.

    Attributes:
        context: the server.
        box: where its events arrive.
        writer: builds the answer.
        headers: further headers of the answer.
        phase: what the request is doing, as far as the client can know.
        ends: the ends of its samples.
        outcome: how it ended, for the log.
    """

    context: Context
    box: Mailbox
    writer: Writer
    headers: dict[str, str] = field(default_factory=dict[str, str])
    phase: str = _WAITING
    ends: list[Ended] = field(default_factory=list[Ended])
    outcome: str = ""

    def note(self, event: Event) -> None:
        """Remember an event. Raises `ApiError` if the engine ended the request."""
        if isinstance(event, Piece):
            self.phase = _WRITING
            return
        self.ends.append(event)
        self.phase = event.phase
        if (error := failure_of(event)) is not None:
            raise error

    def close(self) -> None:
        """Cancel what is left, and count a client that left."""
        unfinished = self.context.client.cancel(self.box)
        if self.box.left and unfinished:
            self.context.metrics.disconnected(self.phase)
            self.outcome = "disconnected"


def failure_of(ended: Ended) -> ApiError | None:
    """Return the error with which the engine ended a sample, or None."""
    result = ended.result
    if result is not None and result.finish_reason == "error":
        return from_failure("engine_error", result.error or ended.message, own_fault=True)
    return from_failure(ended.failure, ended.message) if ended.failure else None


async def whole(exchange: Exchange, receive: Receive) -> Json:
    """Wait for the end of a request; return its answer.

    Raises:
        ApiError: the engine ended the request.
        ClientLeft: the client closed the connection.
    """
    box = exchange.box
    try:
        async with watched(receive, box.leave):
            while events := await box.take():
                for event in events:
                    exchange.note(event)
                    exchange.writer.take(event)
        if box.left:
            raise ClientLeft
        exchange.outcome = "done"
        return exchange.writer.answer()
    except ApiError as error:
        exchange.outcome = error.code
        raise
    finally:
        exchange.close()


class EventStream(Response):
    """The answer as a stream of events.

    The status is held back until the first event of the engine, or for some seconds, so that errors
    of the queue have a status of their own.
    """

    def __init__(self, exchange: Exchange, on_end: Callable[[Exchange], None]) -> None:
        super().__init__()
        self._exchange, self._on_end = exchange, on_end
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the stream."""
        exchange = self._exchange
        try:
            async with watched(receive, exchange.box.leave):
                await self._run(send)
            if exchange.box.left:
                raise ClientLeft
        except TimeoutError:  # the client accepts nothing
            exchange.box.leave()
            if (abort := scope.get("extensions", {}).get(ABORT)) is not None:
                abort()
            raise ClientLeft from None
        except ApiError as error:
            exchange.outcome = error.code
            raise
        except ClientLeft:
            raise
        except Exception:
            exchange.outcome = "internal_error"
            if not self._begun:
                raise
            log.exception("a stream failed")
            await self._send(send, exchange.writer.broken(crashed()), more=False)
        finally:
            exchange.close()
            self._on_end(exchange)

    async def _run(self, send: Send) -> None:
        exchange, settings = self._exchange, self._exchange.context.settings
        patience, begun = settings.hold, perf_counter()
        while True:
            try:
                async with asyncio.timeout(patience):
                    events = await exchange.box.take()
            except TimeoutError:
                await self._send(send, [PING])
                patience = settings.ping
                continue
            if not events:
                break
            if not await self._show(send, events):
                return
            waited = perf_counter() - begun
            patience = settings.ping if self._begun else max(settings.hold - waited, 0.01)
        if not exchange.box.left:
            exchange.outcome = "done"
            await self._send(send, exchange.writer.last(), more=False)

    async def _show(self, send: Send, events: Sequence[Event]) -> bool:
        """Write events; return false if the engine ended the request with an error."""
        exchange = self._exchange
        frames: list[bytes] = []
        try:
            for event in events:
                exchange.note(event)
                frames += exchange.writer.frames(event)
        except ApiError as error:
            if not self._begun and not frames:
                raise
            exchange.outcome = error.code
            await self._send(send, [*frames, *exchange.writer.broken(error)], more=False)
            return False
        if frames:
            await self._send(send, frames)
        return True

    async def _send(self, send: Send, frames: Iterable[bytes], more: bool = True) -> None:
        """Send frames. Raises `TimeoutError` if the client accepts nothing."""
        async with asyncio.timeout(self._exchange.context.settings.send_timeout):
            if not self._begun:
                self._begun = True
                given = [(k.encode(), v.encode()) for k, v in self._exchange.headers.items()]
                head = [*HEADERS, *given]
                await send({"type": "http.response.start", "status": 200, "headers": head})
            body = b"".join(frames)
            await send({"type": "http.response.body", "body": body, "more_body": more})
