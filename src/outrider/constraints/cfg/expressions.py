"""Regular expressions over bytes, as trees."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]
"""Code points: the first and the last of each range."""

MOST = 0x10FFFF
_SIZES = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, MOST))
"""Code points of one length in UTF-8, without surrogates."""


@dataclass(frozen=True, slots=True)
class Byte:
    """One byte of a set.

    Attributes:
        allowed: bit b is set if byte b is in the set.
    """

    allowed: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """Expressions one after the other; the empty text without any."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any of some expressions; no text at all without any."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """An expression, `low` to `high` times; `high` None: any number of times."""

    part: "Expression"
    low: int = 0
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Both:
    """Texts of two expressions at once."""

    left: "Expression"
    right: "Expression"


@dataclass(frozen=True, slots=True)
class Without:
    """Texts of `left` that are no texts of `right`, such as identifiers without keywords."""

    left: "Expression"
    right: "Expression"


Expression = Byte | Sequence | Choice | Repeat | Both | Without

EMPTY = Sequence(())


def literal(text: str | bytes) -> Expression:
    """Return the expression of one text."""
    data = text.encode() if isinstance(text, str) else text
    return Sequence(tuple(Byte(1 << byte) for byte in data))


def choice(parts: Iterable[Expression]) -> Expression:
    """Return the expression of any of some, without a node around a single one."""
    known = tuple(dict.fromkeys(parts))
    return known[0] if len(known) == 1 else Choice(known)


def sequence(*parts: Expression) -> Expression:
    """Return expressions one after the other, without a node around a single one."""
    return parts[0] if len(parts) == 1 else Sequence(parts)


def code_points(ranges: Iterable[tuple[int, int]]) -> Expression:
    """Return the expression of one character of some ranges, in UTF-8."""
    ascii_bytes, longer = 0, list[Expression]()
    for low, high in ranges:
        for first, last in _SIZES:
            if max(low, first) > min(high, last):
                continue
            begin, end = chr(max(low, first)).encode(), chr(min(high, last)).encode()
            if len(begin) == 1:
                ascii_bytes |= between(begin[0], end[0])
            else:
                longer += [
                    Sequence(tuple(Byte(between(*pair)) for pair in pairs))
                    for pairs in _split(begin, end)
                ]
    own = [Byte(ascii_bytes)] if ascii_bytes else []
    return choice([*own, *longer])


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return all other code points."""
    found, place = [], 0
    for low, high in sorted(ranges):
        if low > place:
            found.append((place, low - 1))
        place = max(place, high + 1)
    if place <= MOST:
        found.append((place, MOST))
    return tuple(found)


def between(low: int, high: int) -> int:
    """Return the set of the bytes from `low` to `high`."""
    return (1 << (high + 1)) - (1 << low)


def _split(begin: bytes, end: bytes) -> Iterator[list[tuple[int, int]]]:
    """Yield ranges of bytes, one list for each product of ranges, whose union is all encodings from
    `begin` to `end`, which have one length."""
    low, high, rest = begin[0], end[0], len(begin) - 1
    if not rest:
        yield [(low, high)]
        return
    least, most = b"\x80" * rest, b"\xbf" * rest
    if low == high:
        for more in _split(begin[1:], end[1:]):
            yield [(low, low), *more]
        return
    if begin[1:] != least:
        for more in _split(begin[1:], most):
            yield [(low, low), *more]
        low += 1
    if end[1:] != most:
        for more in _split(least, end[1:]):
            yield [(high, high), *more]
        high -= 1
    if low <= high:
        yield [(low, high), *[(0x80, 0xBF)] * rest]
