"""Reads the header of a GGUF file: settings, and the places of the tensors.

A file is a magic number, a version, two counts, key-value pairs, entries of tensors, and the data
after padding. Every size is checked against the bytes that are left before anything of that size is
allocated.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.json_file import checked_size, unreadable
from outrider.models.checkpoints.limits import CheckpointLimits, raise_limit
from outrider.models.quantization.blocks import BLOCK_FORMATS, BlockFormat

MAGIC = b"GGUF"
_LFS_POINTER = b"version https://git-lfs"
_VERSIONS = (2, 3)
_AGAIN = "Download the file again"
_MOST_AXES = 4
_ALIGNMENT = "general.alignment"

_STRING, _ARRAY = 8, 9
_NUMBERS: dict[int, struct.Struct] = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
"""Types of values with a fixed size."""

_U32, _U64 = 4, 10
_LENGTH = _NUMBERS[_U64]

_OTHER_FORMATS = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
    42: "Q2_0",
}
"""Names of formats that are not read, by their number."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its rows lie one after the other.

    Attributes:
        name: its name in the file.
        format: how its weights are stored.
        shape: outputs first, as in PyTorch.
        offset: its first byte, counted from the start of the file.
        nbytes: its length in bytes.
    """

    name: str
    format: BlockFormat
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The settings and the tensors of one file."""

    file: Path
    metadata: Mapping[str, JsonValue]
    entries: Mapping[str, Entry]


def read_header(file: Path) -> Header:
    """Read the header of `file`; it is kept until the file changes.

    Raises:
        CheckpointError: the file is damaged or not supported.
    """
    size = checked_size(file, None)
    if not size:
        raise damaged(file, "it is empty")
    try:
        changed = file.stat().st_mtime_ns
    except OSError as error:
        raise unreadable(file, error) from None
    return _read(file, size, changed, CheckpointLimits.current())


@lru_cache(maxsize=4)
def _read(file: Path, size: int, changed: int, limits: CheckpointLimits) -> Header:
    try:
        with (
            file.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _Reader(file, data, size, limits).header()
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from None


def damaged(file: Path, what: str) -> CheckpointError:
    """Return the error for a file that cannot be what it says."""
    return CheckpointError(f"{file} is damaged or truncated: {what}", hint=_AGAIN)


class _Reader:
    """Reads values one after the other."""

    def __init__(self, file: Path, data: mmap.mmap, size: int, limits: CheckpointLimits) -> None:
        self.file, self.data, self.size, self.at = file, data, size, 0
        self.limits, self.values = limits, 0

    def header(self) -> Header:
        """Read everything before the data."""
        self._magic()
        tensors, pairs = self._number(_U64), self._number(_U64)
        self._limit("tensors", tensors, "gguf_tensors")
        self._limit("settings", pairs, "gguf_settings")
        metadata: dict[str, JsonValue] = {}
        for _ in range(self._count(pairs, 12, "settings")):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"the setting {key!r:.100} occurs twice")
            metadata[key] = self._value(self._number(_U32), key)
        alignment = metadata.get(_ALIGNMENT, 32)
        sound = isinstance(alignment, int) and 0 < alignment <= 1 << 20 and alignment % 8 == 0
        if not sound:
            raise self._damaged(f"{_ALIGNMENT} is {alignment!r:.40}")
        found = [self._entry() for _ in range(self._count(tensors, 24, "tensors"))]
        start = -(-self.at // alignment) * alignment
        return Header(self.file, metadata, self._placed(found, start, alignment))

    def _magic(self) -> None:
        first = self._bytes(4)
        if self.data[: len(_LFS_POINTER)] == _LFS_POINTER:
            raise CheckpointError(
                f"{self.file} is a Git LFS pointer, not the weights",
                hint="Fetch them with: git lfs pull",
            )
        if first != MAGIC:
            raise CheckpointError(
                f"{self.file} is not a GGUF file: it begins with {first!r}", hint=_AGAIN
            )
        version = self._number(_U32)
        if version in (v << 24 for v in _VERSIONS):
            raise CheckpointError(
                f"{self.file} is GGUF of a big-endian machine, which is not supported",
                hint="Give a little-endian file",
            )
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{self.file} is GGUF version {version}; supported: 2 and 3",
                hint="Convert it with a current version of llama.cpp",
            )

    # -- values -----------------------------------------------------------------------------

    def _bytes(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise self._damaged(f"{count} bytes are expected at byte {self.at} of {self.size}")
        self.at += count
        self._limit("bytes before the weights", self.at, "gguf_header_bytes")
        return self.data[self.at - count : self.at]

    def _number(self, kind: int) -> int:
        return self._fixed(kind)

    def _fixed(self, kind: int) -> JsonValue:
        code = _NUMBERS[kind]
        return code.unpack(self._bytes(code.size))[0]

    def _string(self) -> str:
        return self._text(self._bytes(self._number(_U64)))

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged(f"the text {raw[:40]!r} is not UTF-8") from None

    def _strings(self, count: int) -> list[str]:
        """Read many texts: a vocabulary has hundreds of thousands."""
        found: list[str] = []
        at, data, size, most = self.at, self.data, self.size, self.limits.gguf_header_bytes
        for _ in range(count):
            if at + 8 > min(size, most):
                break
            first = at + 8
            at = first + _LENGTH.unpack_from(data, at)[0]
            if at > min(size, most):
                at = first - 8
                break
            found.append(self._text(data[first:at]))
        self.at = at
        return found + [self._string() for _ in range(count - len(found))]  # the rest is an error

    def _value(self, kind: int, key: str) -> JsonValue:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _NUMBERS:
            raise self._damaged(f"{key!r:.100} has a value of unknown type {kind}")
        return self._fixed(kind)

    def _array(self, key: str) -> list[JsonValue]:
        kind, length = self._number(_U32), self._number(_U64)
        self.values += self._count(length, 1, key)
        self._limit("values in lists", self.values, "gguf_values")
        if kind == _STRING:
            return self._strings(self._count(length, 8, key))
        if kind not in _NUMBERS:
            what = "a list of lists" if kind == _ARRAY else f"a list of unknown type {kind}"
            raise self._damaged(f"{key!r:.100} is {what}")
        code = _NUMBERS[kind]
        raw = self._bytes(self._count(length, code.size, key) * code.size)
        return [value for (value,) in code.iter_unpack(raw)]

    def _count(self, count: int, least: int, what: str) -> int:
        """Check that `count` values of at least `least` bytes can follow."""
        if count * least > self.size - self.at:
            raise self._damaged(
                f"{count} values of {what!r:.100} are announced, {self.size - self.at} bytes follow"
            )
        return count

    # -- tensors ----------------------------------------------------------------------------

    def _entry(self) -> Entry:
        name = self._string()
        axes = self._number(_U32)
        if not 1 <= axes <= _MOST_AXES:
            raise self._damaged(f"tensor {name!r:.100} has {axes} axes")
        shape = tuple(self._number(_U64) for _ in range(axes))[::-1]
        number, offset = self._number(_U32), self._number(_U64)
        known = BLOCK_FORMATS.get(number)
        if known is None:
            names = ", ".join(one.name for one in BLOCK_FORMATS.values())
            other = _OTHER_FORMATS.get(number, f"number {number}")
            raise CheckpointError(
                f"tensor {name!r:.100} of {self.file} has the type {other}, which is not supported",
                hint=f"Give a file with the types {names}",
            )
        if not all(shape) or math.prod(shape) > 1 << 50:
            raise self._damaged(f"tensor {name!r:.100} has the shape {list(shape)}")
        if shape[-1] % known.weights:
            raise self._damaged(
                f"tensor {name!r:.100} has rows of {shape[-1]}, no multiple of the "
                f"{known.weights} weights of a block of {known.name}"
            )
        nbytes = math.prod(shape) // known.weights * known.nbytes
        return Entry(name, known, shape, offset, nbytes)

    def _placed(self, found: list[Entry], start: int, alignment: int) -> dict[str, Entry]:
        """Turn offsets into places in the file; no tensor overlaps another or the end."""
        placed: dict[str, Entry] = {}
        end = start
        for entry in sorted(found, key=lambda one: one.offset):
            if entry.name in placed:
                raise self._damaged(f"tensor {entry.name!r:.100} occurs twice")
            first = start + entry.offset
            if entry.offset % alignment or first < end:
                raise self._damaged(f"tensor {entry.name!r:.100} begins at {first}, inside another")
            end = first + entry.nbytes
            if end > self.size:
                raise self._damaged(f"tensor {entry.name!r:.100} ends at byte {end} of {self.size}")
            placed[entry.name] = Entry(entry.name, entry.format, entry.shape, first, entry.nbytes)
        return placed

    def _limit(self, what: str, count: int, name: str) -> None:
        most: int = getattr(self.limits, name)
        if count > most:
            raise CheckpointError(
                f"{self.file} has {count:,} {what}, above the limit of {most:,}",
                hint=raise_limit(name),
            )

    def _damaged(self, what: str) -> CheckpointError:
        return damaged(self.file, what)
