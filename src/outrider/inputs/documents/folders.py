"""Lists the files of a folder at any depth, without hidden files and files about other files."""

import os
from collections.abc import Iterator
from pathlib import Path

from outrider.core.errors import OptionError

TEXT_SUFFIXES = (".txt", ".md", ".text", ".py", ".rst")
"""File types that are read from a folder as plain text."""

ABOUT = ("readme", "license", "licence", "changelog", "contributing", "notice")
"""Stems of files that describe other files of a folder."""


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, sorted by name; hidden folders are not searched.

    Raises `OptionError`.
    """

    def refuse(error: OSError) -> None:
        raise OptionError(f"{error.filename} cannot be read: {error.strerror}") from None

    for place, folders, names in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in folders if name.startswith("."))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (file for name in sorted(names) if (file := Path(place, name)).is_file())


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether the name of `file`, or of a folder between it and `folder`, begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def is_about(stem: str) -> bool:
    """Whether a file with this stem describes other files."""
    return stem.lower() in ABOUT
