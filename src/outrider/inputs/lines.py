"""Reads lines of text files, compressed or not; all JSON lines are read here."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from outrider.core.errors import MissingExtraError, OptionError


def numbered_lines(
    file: Path, *, hint: str = "", extra: str = "train"
) -> Iterator[tuple[int, str]]:
    """Yield the lines of `file` that are not blank, each with its number, from 1.

    Args:
        file: text in UTF-8; `.gz` and `.zst` are decompressed.
        hint: advice in the error message if the file is not text.
        extra: the package extra that the error message names if `zstandard` is missing.

    Raises:
        OptionError: the file cannot be read, unpacked or decoded.
        MissingExtraError: a `.zst` file without `zstandard`.
    """
    with open_text(file, hint=hint, extra=extra) as lines:
        yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())


@contextmanager
def open_text(file: Path, *, hint: str = "", extra: str = "train") -> Iterator[TextIO]:
    """Open `file` as a stream of text; see `numbered_lines`.

    Reading errors inside the context are converted as well.
    """
    try:
        with (
            file.open("rb") as raw,
            io.TextIOWrapper(_plain(raw, file, extra), "utf-8-sig") as text,
        ):
            yield text
    except UnicodeDecodeError:
        raise OptionError(f"{file} is not text in UTF-8", hint=hint) from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{file} cannot be read: {reason}") from None


def unpacked_name(file: Path) -> Path:
    """Return the name of a file without the suffix of its compression."""
    return file.with_suffix("") if file.suffix in (".zst", ".gz") else file


def _plain(raw: io.BufferedReader, file: Path, extra: str) -> Any:
    if file.suffix == ".zst":
        return io.BufferedReader(_Zstd(raw, extra))
    return gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw


class _Zstd(io.RawIOBase):
    """A stream over a zstd file of any number of frames; the last frame must be complete."""

    def __init__(self, raw: io.BufferedReader, extra: str) -> None:
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
            self._packed = self._packed or self._raw.read(1 << 14)
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
