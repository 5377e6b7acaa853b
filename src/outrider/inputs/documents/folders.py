"""Lists the files of a folder at any depth, without hidden files and files about other files."""

import os
from collections.abc import Iterator
from pathlib import Path

from outrider.core.errors import OptionError
from outrider.inputs.documents.limits import DEFAULT, DocumentLimits, exceeded

TEXT_SUFFIXES = (".txt", ".md", ".text", ".py", ".rst")
"""File types that are read from a folder as plain text."""

ABOUT = ("readme", "license", "licence", "changelog", "contributing", "notice")
"""Stems of files that describe other files of a folder."""

_FEWER = "Give files, or folders within it, by name"


def files_below(folder: Path, limits: DocumentLimits | None = None) -> Iterator[Path]:
    """Yield all files below a folder, sorted by name; hidden folders are not searched.

    Folders that are symbolic links are not searched, so that a search ends. Pipes, devices and
    sockets are not files.

    Args:
        folder: where the search begins.
        limits: limits that the caller can raise; None means the defaults, for callers that take
            no limits, and then an error does not name the option.

    Raises:
        OptionError: a folder cannot be read, or there are too many files or levels of folders.
    """
    hint = _FEWER if limits is None else ""
    limits = limits or DEFAULT
    todo = [(folder, 0)]
    entries = 0
    while todo:
        place, depth = todo.pop()
        names: list[str] = []
        folders: list[str] = []
        for entry in _entries(place):
            entries += 1
            if entries > limits.files:
                raise exceeded(str(folder), "files", limits, "more entries", hint=hint)
            if _is_folder(entry):
                folders.append(entry.name)
            else:
                names.append(entry.name)
        inner = sorted(name for name in folders if not name.startswith("."))
        if inner and depth >= limits.folder_depth:
            found = "more folders within folders"
            raise exceeded(str(folder), "folder_depth", limits, found, hint=hint)
        yield from (Path(place, name) for name in folders if name.startswith("."))
        yield from (file for name in sorted(names) if (file := Path(place, name)).is_file())
        todo += [
            (Path(place, name), depth + 1)
            for name in reversed(inner)
            if not os.path.islink(Path(place, name))
        ]


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether the name of `file`, or of a folder between it and `folder`, begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def is_about(stem: str) -> bool:
    """Whether a file with this stem describes other files."""
    return stem.lower() in ABOUT


def _entries(place: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(place) as found:
            yield from found
    except OSError as error:
        raise OptionError(f"{place} cannot be read: {error.strerror}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
