"""What is in a folder: files at any depth, without what is hidden or speaks about the others."""

import os
from collections.abc import Iterator
from pathlib import Path

from outrider.core.errors import OptionError

TEXT_SUFFIXES = (".txt", ".md", ".text", ".py", ".rst")
"""Files of a folder that are read as plain text."""

ABOUT = ("readme", "license", "licence", "changelog", "contributing", "notice")
"""Files of a folder that speak about the others, by their name without its end."""


def files_below(folder: Path) -> Iterator[Path]:
    """All files below, by name; of hidden folders only the folders. Raises `OptionError`."""

    def refuse(error: OSError) -> None:
        raise OptionError(f"{error.filename} can not be read: {error.strerror}") from None

    for place, folders, names in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in folders if name.startswith("."))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (file for name in sorted(names) if (file := Path(place, name)).is_file())


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether `file`, or a folder between it and `folder`, begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def is_about(stem: str) -> bool:
    """Whether a file of this name, without its end, speaks about the others."""
    return stem.lower() in ABOUT
