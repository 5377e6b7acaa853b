"""Reads lines of text files, compressed or not; all JSON lines are read here."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from outrider.core.errors import MissingExtraError, OptionError
from outrider.inputs.regular import open_regular

_PACKED = 1 << 12
"""Compressed bytes that are unpacked at a time; zstd can expand them by 30,000."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineLimits:
    """Limits on files of lines, after decompression.

    Attributes:
        line_characters: length of a line.
        text_characters: length of a file that is read as a whole, such as a file of prompts.
    """

    line_characters: int = 16 << 20
    text_characters: int = 256 << 20


DEFAULT = LineLimits()


def numbered_lines(
    file: Path, *, hint: str = "", extra: str = "train", limits: LineLimits = DEFAULT
) -> Iterator[tuple[int, str]]:
    """Yield the lines of `file` that are not blank, each with its number, from 1.

    Args:
        file: text in UTF-8; `.gz` and `.zst` are decompressed.
        hint: advice in the error message if the file is not text.
        extra: the package extra that the error message names if `zstandard` is missing.
        limits: the length of a line is limited.

    Raises:
        OptionError: the file cannot be read, unpacked or decoded, or a line is too long.
        MissingExtraError: a `.zst` file without `zstandard`.
    """
    with open_text(file, hint=hint, extra=extra) as lines:
        number = 0
        while line := lines.readline(limits.line_characters + 1):
            number += 1
            if len(line) > limits.line_characters:
                raise OptionError(
                    f"line {number} of {file} exceeds the limit line_characters="
                    f"{limits.line_characters}",
                    hint="Split it, or leave it out",
                )
            if line.strip():
                yield number, line


def read_text(stream: TextIO, name: str, limits: LineLimits = DEFAULT) -> str:
    """Read a stream to its end. Raises `OptionError` if it is too long."""
    text = stream.read(limits.text_characters + 1)
    if len(text) > limits.text_characters:
        raise too_long(name, limits)
    return text


def too_long(name: str, limits: LineLimits) -> OptionError:
    """Return the error for a text that exceeds `text_characters`."""
    return OptionError(
        f"{name} exceeds the limit text_characters={limits.text_characters}",
        hint="Split it into several files",
    )


@contextmanager
def open_text(file: Path, *, hint: str = "", extra: str = "train") -> Iterator[TextIO]:
    """Open `file` as a stream of text; see `numbered_lines`.

    Reading errors inside the context are converted as well.
    """
    try:
        with (
            open_regular(file) as raw,
            io.TextIOWrapper(_plain(raw, file, extra), "utf-8-sig") as text,
        ):
            yield text
    except UnicodeDecodeError:
        raise OptionError(f"{file} is not text in UTF-8", hint=hint) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{file} cannot be read: {reason}") from None


def unpacked_name(file: Path) -> Path:
    """Return the name of a file without the suffix of its compression."""
    return file.with_suffix("") if file.suffix in (".zst", ".gz") else file


def _plain(raw: BinaryIO, file: Path, extra: str) -> Any:
    if file.suffix == ".zst":
        return io.BufferedReader(_Zstd(raw, extra))
    return gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw


class _Zstd(io.RawIOBase):
    """A stream over a zstd file of any number of frames; the last frame must be complete."""

    def __init__(self, raw: BinaryIO, extra: str) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError("zstandard", extra) from error
        self._raw, self._new, self._damage = raw, zstandard.ZstdDecompressor, zstandard.ZstdError
        self._frame: Any = None
        self._packed = self._plain = b""

    def readable(self) -> bool:
        """True: the stream supports reading."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill a part of `buffer`; raises `OSError` for a damaged file."""
        while not self._plain:
            self._packed = self._packed or self._raw.read(_PACKED)
            if not self._packed:
                if self._frame is not None:
                    raise OSError("the zstd data is incomplete")
                return 0
            self._next()
        size = min(len(buffer), len(self._plain))
        buffer[:size], self._plain = self._plain[:size], self._plain[size:]
        return size

    def _next(self) -> None:
        """Decompress the data read last, up to the end of a frame."""
        self._frame = self._frame or self._new().decompressobj()
        try:
            self._plain, self._packed = self._frame.decompress(self._packed), b""
        except self._damage as error:
            raise OSError(f"it is not compressed with zstd ({error})") from None
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
