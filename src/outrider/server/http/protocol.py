"""The protocol of one connection: uvicorn's, which also gives up on silent clients."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT = "outrider.abort"
"""Extension of the scope: a function that closes the connection and drops what was not sent."""


def protocol(seconds: float) -> type[HttpToolsProtocol]:
    """Return the class of connections.

    Args:
        seconds: a client that accepts nothing, or does not finish the head of its first request,
            is cut off after this time.
    """

    class Connection(HttpToolsProtocol):
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head = self.loop.call_later(seconds, transport.abort)
            with suppress(OSError, AttributeError):  # other systems lack the option
                connection = transport.get_extra_info("socket")
                milliseconds = int(seconds * 1000)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._came()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            scope: Any = self.scope
            scope["extensions"] = {ABORT: self.transport.abort}

        def on_headers_complete(self) -> None:
            self._came()
            super().on_headers_complete()

        def _came(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Connection
