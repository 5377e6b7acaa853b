"""Notices that a client closes its connection, in streams and in plain answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.types import Receive


class ClientLeft(Exception):
    """The client closed the connection; there is nobody to answer."""


@asynccontextmanager
async def watched(receive: Receive, left: Callable[[], None]) -> AsyncIterator[None]:
    """Context manager: call `left` when the client closes the connection.

    The body must have been read: what follows it can only be the end of the connection.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
