"""Reads files as documents: plain text, Markdown, HTML and PDF, single files or folders."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from outrider.core.errors import MissingExtraError, OptionError, OutriderError, OutriderWarning
from outrider.inputs.documents.folders import TEXT_SUFFIXES, files_below, is_about, is_hidden
from outrider.inputs.documents.html import html_text
from outrider.inputs.documents.limits import DEFAULT, DocumentLimits, exceeded
from outrider.inputs.documents.pdf import pdf_text
from outrider.inputs.documents.plain import READ, decoded
from outrider.inputs.regular import open_regular, read_at_most

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
SUFFIXES = (*TEXT_SUFFIXES, ".markdown", *HTML_SUFFIXES, ".pdf")
"""File types that are read from a folder. A named file is read whatever its type."""

Document = tuple[str, str]
"""Name and text of a document."""

Progress = Callable[[int, int, str], None]
"""Called with the number done, the total (files, or pages of a file), and the file's name."""

_PDF = b"%PDF-"


def read_files(
    places: Sequence[str | Path],
    progress: Progress | None = None,
    *,
    limits: DocumentLimits = DEFAULT,
) -> list[Document]:
    """Read the documents at `places`: files, and folders at any depth, each file once.

    In folders, hidden files, READMEs, licenses, other types (`SUFFIXES`) and empty files are
    skipped. The name of a document is the name of its file, or its path within a folder. If two
    names are equal, they are the paths as given. A file that cannot be read is reported as an
    `OutriderWarning`, and the others are returned.

    Raises:
        OptionError: a place is missing, a folder holds no document or exceeds a limit, or no file
            can be read: each is empty, binary, encrypted, in an unknown encoding, or exceeds a
            limit.
        MissingExtraError: a package that reads HTML or PDF is not installed.
    """
    found = _files([_path(place) for place in places], limits)
    names = Counter(name for name, _ in found.values())
    documents: list[Document] = []
    bad: list[OutriderError] = []
    for done, (name, file) in enumerate(found.values()):
        if progress is not None:
            progress(done, len(found), name)
        pages = None if progress is None or len(found) > 1 else _paged(progress, name)
        try:
            text = read_bytes(_bytes(file, limits), str(file), pages, limits=limits)
        except MissingExtraError:
            raise
        except OutriderError as error:
            bad.append(error)
            continue
        documents.append((_spelled(name if names[name] == 1 else str(file)), text))
    if bad and not documents:
        raise bad[0]
    for error in bad:
        warnings.warn(f"left out: {error}", OutriderWarning, stacklevel=2)
    return documents


def read_stream(stream: BinaryIO, name: str, *, limits: DocumentLimits = DEFAULT) -> str:
    """Read the text of a stream, such as standard input. Raises the errors of `read_files`."""
    data = read_at_most(stream, limits.bytes)
    if data is None:
        raise exceeded(name, "bytes", limits, "more")
    return read_bytes(data, name, limits=limits)


def read_bytes(
    data: bytes,
    name: str,
    page_read: Callable[[int, int], None] | None = None,
    *,
    limits: DocumentLimits = DEFAULT,
) -> str:
    """Read the text of one file; its type follows from its content and the suffix of `name`.

    Raises the errors of `read_files`.
    """
    suffix = Path(name).suffix.lower()
    # Other bytes may precede the mark of a PDF, but a text may also contain it.
    if data.startswith(_PDF) or (suffix == ".pdf" and _PDF in data[:1024]):
        text = pdf_text(data, name, page_read, limits)
    elif len(data) > limits.expanded_bytes:
        raise exceeded(name, "expanded_bytes", limits, f"{len(data)} bytes of text")
    elif suffix in HTML_SUFFIXES:
        text = html_text(data, name, limits)
    else:
        text = decoded(data, name).replace("\r\n", "\n")
    if not text.strip():
        raise OptionError(f"{name} is empty" if not data.strip() else f"{name} holds no text")
    return text


def _files(places: Sequence[Path], limits: DocumentLimits) -> dict[Path, tuple[str, Path]]:
    """Map each file to read to its name and the path as given."""
    found: dict[Path, tuple[str, Path]] = {}
    for place in places:
        if place.is_dir():
            texts = (file for file in files_below(place, limits) if _told(file, place))
            inside = [(str(file.relative_to(place)), file) for file in texts]
            if not inside:
                raise OptionError(
                    f"{place} holds no document",
                    hint=f"Files end in {', '.join(SUFFIXES)}; hidden and empty files and READMEs "
                    "are skipped",
                )
        elif place.exists():
            inside = [(place.name, place)]
        else:
            raise OptionError(f"there is no file {place}", hint=f"{READ}, and folders of them")
        for name, file in inside:
            found.setdefault(file.resolve(), (name, file))
    return found


def _path(place: str | Path) -> Path:
    if place == "":  # as a path, it would be the current folder
        raise OptionError("the name of a file is empty", hint="Give a file or a folder")
    try:
        path = Path(place).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # name too long, unknown home folder, ...
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{place!s:.80} cannot be read: {reason}") from None
    return path


def _spelled(name: str) -> str:
    """Return a file name as text, even if its encoding is unknown."""
    return os.fsencode(name).decode("utf-8", "replace")


def _told(file: Path, folder: Path) -> bool:
    if is_hidden(file, folder) or is_about(file.stem) or file.suffix.lower() not in SUFFIXES:
        return False
    try:
        return file.stat().st_size > 0
    except OSError:  # it is reported when it is read
        return True


def _bytes(file: Path, limits: DocumentLimits) -> bytes:
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > limits.bytes:
                raise exceeded(str(file), "bytes", limits, f"{size} bytes")
            data = read_at_most(stream, limits.bytes)
            if data is None:
                raise exceeded(str(file), "bytes", limits, "more")
            return data
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror or error}") from None


def _paged(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda page, pages: progress(page, pages, name)
