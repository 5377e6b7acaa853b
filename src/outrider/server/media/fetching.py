"""Fetches one file over HTTP from an address that was checked.

The name of a host is resolved once, and the connection goes to the address that was checked: a
second answer of the name server (DNS rebinding) has no effect.
"""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass, field

import httptools

from outrider.core.version import __version__
from outrider.server.errors import ApiError, invalid
from outrider.server.media.addresses import Allowed, Place, Resolve, is_named, is_public, resolved

_PIECE = 1 << 16

_AROUND = 1 << 18
"""Most bytes of an answer that are not content: headers, sizes of chunks, trailers. The parser
keeps an unfinished header, so what was received is counted, not what was parsed."""

_AT_ONCE = 16
"""Requests whose files are fetched at the same time; others wait. This bounds memory."""


class Unfetched(Exception):
    """A file cannot be fetched; the text is the reason."""


@dataclass(slots=True, kw_only=True)
class Budget:
    """Bytes that may still be fetched for a request."""

    left: int

    def spend(self, count: int) -> None:
        """Take bytes. Raises `Unfetched` if there are not so many."""
        self.left -= count
        if self.left < 0:
            raise Unfetched("it has too many bytes")


@dataclass(slots=True, kw_only=True)
class Fetcher:
    """Fetches files from hosts that are named.

    Attributes:
        hosts: from `read_host`; none: nothing is fetched.
        seconds: time for all files of a request.
        most_bytes: bytes of all files of a request.
        most_files: number of files of a request.
        resolve: finds the addresses of a host.
        allowed: whether an address may be connected to.
        tls: how certificates are checked.
        gate: limits the requests whose files are fetched at the same time.
    """

    hosts: tuple[str, ...] = ()
    seconds: float = 10.0
    most_bytes: int = 20_000_000
    most_files: int = 16
    resolve: Resolve = resolved
    allowed: Allowed = is_public
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def fetch(self, url: str, budget: Budget, param: str) -> bytes:
        """Return the content of a file.

        Args:
            url: where it is.
            budget: bytes that may be fetched.
            param: the field of the request, for errors.

        Raises:
            ApiError: its host is not named, an address is not public, or the host does not answer
                with the file.
        """
        try:
            place = Place.of(url)
            if not is_named(place, self.hosts):
                raise Unfetched("its host is not among those that the server may ask")
            return await self._fetch(place, await self._address(place), budget)
        except ssl.SSLError as error:
            detail = getattr(error, "verify_message", "") or error.reason or "failed"
            raise failed(url, f"TLS: {detail}", param) from None
        except (Unfetched, ValueError) as error:
            raise failed(url, str(error), param) from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise failed(url, f"the host cannot be reached: {reason}", param) from None
        except httptools.HttpParserError:
            raise failed(url, "the host does not answer in HTTP", param) from None

    async def _address(self, place: Place) -> str:
        """Return an address of a host. Raises `Unfetched` if any of them must not be asked."""
        found = await self.resolve(place.host, place.port)
        if not found or not all(map(self.allowed, found)):
            raise Unfetched("its host is not at a public address")
        return found[0]

    async def _fetch(self, place: Place, address: str, budget: Budget) -> bytes:
        tls = {"ssl": self.tls, "server_hostname": place.host} if place.secure else {}
        reader, writer = await asyncio.open_connection(address, place.port, **tls)
        try:
            if not self.allowed(writer.get_extra_info("peername")[0]):
                raise Unfetched("its host is not at a public address")
            writer.write(_request(place))
            answer = _Answer(budget)
            while not answer.complete and (data := await reader.read(_PIECE)):
                answer.feed(data)
            if answer.cut:
                raise Unfetched("the host ended the answer too early")
            return bytes(answer.content)
        finally:
            writer.close()
            with suppress(OSError):
                await asyncio.wait_for(writer.wait_closed(), 1.0)


def failed(url: str, reason: str, param: str) -> ApiError:
    """Return the error for a file that cannot be fetched."""
    return invalid(f"the image at {url!r:.100} cannot be fetched: {reason}", param)


def _request(place: Place) -> bytes:
    lines = (
        f"GET {place.target} HTTP/1.1",
        f"Host: {place.header}",
        f"User-Agent: outrider/{__version__}",
        "Accept: image/*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class _Answer:
    """An answer as the parser finds it, which calls the methods that begin with `on_`."""

    def __init__(self, budget: Budget) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._budget, self._received = budget, 0
        self._headed, self._ends = False, False
        self.content = bytearray()
        self.complete = False

    @property
    def cut(self) -> bool:
        """Whether the connection ended within the answer. Without a length, its end is the end."""
        return not self._headed or (self._ends and not self.complete)

    def feed(self, data: bytes) -> None:
        """Parse a piece. Raises `Unfetched` if the answer is not the file."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Unfetched):
                raise error.__context__ from None
            raise
        self._received += len(data)
        if self._received - len(self.content) > _AROUND:
            raise Unfetched("it has too many bytes around its content, such as headers")

    def on_header(self, name: bytes, value: bytes) -> None:
        name, value = name.lower(), value.strip().lower()
        if name == b"content-encoding" and value != b"identity":
            raise Unfetched("it is compressed for the transfer, which was not asked for")
        self._ends = self._ends or name in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self._headed = True
        status = self._parser.get_status_code()
        if 300 <= status < 400:
            raise Unfetched(f"the host answers with a redirect ({status}), which is not followed")
        if status != 200:
            raise Unfetched(f"the host answers {status}")

    def on_body(self, body: bytes) -> None:
        self._budget.spend(len(body))
        self.content += body

    def on_message_complete(self) -> None:
        self.complete = True
