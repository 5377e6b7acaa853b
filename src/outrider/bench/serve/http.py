"""One streamed request over HTTP/1.1, with as little work for each event as possible.

The generator of the load shares the machine with the server that it measures. A complete HTTP
library takes several times as long for each event, and would make the server look slower.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

_MOST = 1 << 20
"""Largest number of bytes of a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens.

    Attributes:
        host: name or address.
        port: the port.
        path: what precedes the paths of the endpoints, such as `/v1`.
        secure: whether TLS is used.
    """

    host: str
    port: int
    path: str
    secure: bool

    @classmethod
    def of(cls, url: str) -> "Address":
        """Read a URL such as `http://127.0.0.1:8000/v1`. Raises `OptionError`."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = None, None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"the URL is {url!r:.80}", hint="Give http://HOST:PORT/v1")
        secure = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=port or (443 if secure else 80),
            path=parts.path.rstrip("/"),
            secure=secure,
        )


class Refused(Exception):
    """The server answered with an error; `status` is its code."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status


async def events(
    address: Address, endpoint: str, body: Mapping[str, JsonValue], key: str | None = None
) -> AsyncIterator[dict[str, JsonValue]]:
    """Send one request and yield the events of its answer as they arrive.

    Raises:
        Refused: the server answers with another code than 200.
        OSError: there is no connection, it breaks, what arrives is no answer, or the answer ends
            without a `finish_reason` and without `[DONE]`, which some servers leave out.
    """
    secure = ssl.create_default_context() if address.secure else None
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=secure, limit=_MOST
    )
    try:
        content = json.dumps(body).encode()
        writer.write(_head(address, endpoint, len(content), key) + content)
        await writer.drain()
        status, chunked = await _answer_head(reader)
        if status != 200:
            raise Refused(status, (await _rest(reader, chunked))[:300].decode(errors="replace"))
        done = finished = False
        async for line in _lines(reader, chunked):
            done = done or line == b"data: [DONE]"
            if line.startswith(b"data: ") and not done:
                event = _event(line[6:])
                finished = finished or _finishes(event)
                yield event
        if not (done or finished):
            raise ConnectionError("the answer ended without a finish_reason and without [DONE]")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _head(address: Address, endpoint: str, length: int, key: str | None) -> bytes:
    lines = [
        f"POST {address.path}{endpoint} HTTP/1.1",
        f"Host: {address.host}:{address.port}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        "Connection: close",
        *([f"Authorization: Bearer {key}"] if key else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _event(line: bytes) -> dict[str, JsonValue]:
    event = json.loads(line)
    if not isinstance(event, dict):
        raise ConnectionError(f"an event is {line[:80]!r} and not an object")
    return event


def _finishes(event: Mapping[str, JsonValue]) -> bool:
    """Whether an event holds the reason for the end of the text."""
    choices = event.get("choices")
    found = choices if isinstance(choices, list) else []
    return any(isinstance(one, dict) and one.get("finish_reason") for one in found)


async def _answer_head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Return the status, and whether the body comes in chunks."""
    first = await reader.readline()
    if not first:
        raise ConnectionError("the server closed the connection")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/") or not rest[:3].isdigit():
        raise ConnectionError(f"the status line is {first[:80]!r}")
    status, chunked = int(rest[:3]), False
    while (line := (await reader.readline()).strip().lower()) != b"":
        chunked = chunked or line.replace(b" ", b"") == b"transfer-encoding:chunked"
    return status, chunked


async def _pieces(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    """Yield the body as it arrives."""
    while not chunked:
        piece = await reader.read(_MOST)
        if not piece:
            return
        yield piece
    while size := int((await reader.readline()).split(b";")[0], 16):
        piece = await reader.readexactly(size + 2)
        yield piece[:-2]


async def _lines(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in _pieces(reader, chunked):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
    if rest:
        yield rest


async def _rest(reader: asyncio.StreamReader, chunked: bool) -> bytes:
    return b"".join([piece async for piece in _pieces(reader, chunked)])
