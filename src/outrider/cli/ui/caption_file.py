"""A file of captions that is written line by line and can be continued after an interruption."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from outrider.cli.ui.render import json_line
from outrider.core.errors import OptionError, writing


class CaptionFile:
    """JSON lines `{image, caption, ...}` or `{image, error}`; new ones are appended.

    A context manager. An incomplete last line is removed when the file is opened.

    Attributes:
        done: images that already have a caption; those with an error are tried again.

    Args:
        path: the file, created if missing; its folder must exist.

    Raises:
        OptionError: the file cannot be read or written, or has other content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[str] = set()
        self._whole = 0
        try:
            if path.exists():
                self._read(path.read_bytes())
            # Without a buffer, which would be written again when the file is closed.
            self._file = path.open("ab", buffering=0)
            self._file.truncate(self._whole)
        except OSError as error:
            raise OptionError(
                f"{path} cannot be written: {error.strerror or error}",
                hint="Give a file in an existing folder as --out",
            ) from None

    def __enter__(self) -> "CaptionFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line. Raises `OptionError` if the disk is full."""
        rest = memoryview(json_line(record).encode() + b"\n")
        with writing(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def _read(self, data: bytes) -> None:
        lines = data.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                whole = number < len(lines)
            elif (record := _record(line)) is not None:
                self._note(record)
                whole = True
            elif number == len(lines):
                whole = False  # cut off while it was written
            else:
                raise OptionError(
                    f"{self.path} is not a file of captions: line {number} is not a caption",
                    hint="Give a new file as --out",
                )
            self._whole += (len(line) + 1) if whole else 0
        if data and not data.endswith(b"\n") and self._whole > len(data):
            self._drop_cut_line()

    def _drop_cut_line(self) -> None:
        """Add the missing line break after a complete last line."""
        with self.path.open("ab") as file:
            file.write(b"\n")

    def _note(self, record: Mapping[str, Any]) -> None:
        if record.get("caption") is not None:
            self.done.add(record["image"])
        else:
            self.done.discard(record["image"])


def _record(line: bytes) -> dict[str, Any] | None:
    """Parse a line of this format; None for any other line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(found, dict) and isinstance(found.get("image"), str)
    return found if is_ours and ("caption" in found or "error" in found) else None
