"""Which hosts may be asked for images, and which of their addresses."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from outrider.core.errors import OptionError

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host, in numbers."""

Allowed = Callable[[str], bool]
"""Whether the server may connect to an address."""

PORTS = {"http": 80, "https": 443}

_EMBEDDING = ipaddress.ip_network("64:ff9b::/96")
"""Addresses that gateways translate to IPv4 (RFC 6052)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an image is.

    Attributes:
        secure: whether TLS is used.
        host: the name, in ASCII and lower case, or an address.
        port: the port.
        target: path and query.
    """

    secure: bool
    host: str
    port: int
    target: str

    @classmethod
    def of(cls, url: str) -> "Place":
        """Read a URL. Raises `ValueError` with the reason if it is none that can be fetched."""
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it has characters that must be quoted")
        parts = urlsplit(url)
        if parts.scheme not in PORTS:
            raise ValueError("it does not begin with http:// or https://")
        if "@" in parts.netloc:
            raise ValueError("it holds a name or a password")
        host = (parts.hostname or "").rstrip(".")
        if not host:
            raise ValueError("it names no host")
        return cls(
            secure=parts.scheme == "https",
            host=host,
            port=parts.port or PORTS[parts.scheme],
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )

    @property
    def usual(self) -> bool:
        """Whether the port is that of the scheme."""
        return self.port == PORTS["https" if self.secure else "http"]

    @property
    def name(self) -> str:
        """The host as URLs write it: addresses of IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def header(self) -> str:
        """The host as the header of a request names it."""
        return self.name if self.usual else f"{self.name}:{self.port}"


def read_host(given: str) -> str:
    """Return a host that may be asked, as `is_named` compares it: `HOST`, or `HOST:PORT`.

    Raises:
        OptionError: it is a URL, or no host.
    """
    try:
        if "/" in given or "@" in given or "*" in given:
            raise ValueError
        place = Place.of(f"http://{given.encode('idna').decode()}")
    except ValueError:
        raise OptionError(
            f"the media host is {given!r:.80}",
            hint="Give a name such as images.example.org, or NAME:PORT, without http://",
        ) from None
    named = urlsplit(f"//{given}").port
    return f"{place.name}:{named}" if named else place.name


def is_named(place: Place, hosts: Sequence[str]) -> bool:
    """Whether a place is at one of the hosts; without a port, at the usual ones only."""
    return f"{place.name}:{place.port}" in hosts or (place.usual and place.name in hosts)


def is_public(address: str) -> bool:
    """Whether everybody can reach an address, so that it is no machine of the own network.

    Addresses of IPv6 that stand for one of IPv4 are judged by that one.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found.teredo is not None:
            inner = found.teredo[1]
        if found in _EMBEDDING:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not (found.is_multicast or found.is_reserved)


async def resolved(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host. Raises `OSError` if it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))
