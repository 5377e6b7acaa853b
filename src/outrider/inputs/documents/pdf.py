"""Extracts the text of a PDF, page by page."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from outrider.core.errors import MissingExtraError, OptionError

PageRead = Callable[[int, int], None]
"""Called with the number of pages read and the total number."""


def pdf_text(data: bytes, name: str, page_read: PageRead | None = None) -> str:
    """Extract the text of all pages, separated by empty lines.

    Raises:
        MissingExtraError: pypdf is not installed.
        OptionError: the file is damaged or encrypted, or its pages are images.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError as error:
        raise MissingExtraError("pypdf", "context") from error
    pages: list[str] = []
    with _quiet():
        try:
            reader = pypdf.PdfReader(BytesIO(data))
            _open(reader, name)
            for number, page in enumerate(reader.pages, start=1):
                pages.append(page.extract_text())
                if page_read is not None:
                    page_read(number, len(reader.pages))
        except DependencyError:
            raise _encrypted(name) from None
        except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as bad:
            reason = " ".join(str(bad).split())[:120]
            raise OptionError(
                f"{name} cannot be read as PDF: {reason}",
                hint="Export it again, or give a text file",
            ) from bad
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    if not text:
        raise OptionError(
            f"{name} holds no text: its {len(pages)} pages are images, such as a scan",
            hint="Extract the text with OCR, and give the text",
        )
    # Fonts can map to half surrogate pairs and to null characters.
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _open(reader: Any, name: str) -> None:
    """Decrypt with an empty password, which many public files have."""
    if reader.is_encrypted and not reader.decrypt(""):
        raise _encrypted(name)


def _encrypted(name: str) -> OptionError:
    return OptionError(
        f"{name} is encrypted", hint="Remove the password, such as with qpdf --decrypt"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: suppress the log of pypdf, which reports every small fault of a file."""
    log = logging.getLogger("pypdf")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)  # its modules use child loggers of this one
    try:
        yield
    finally:
        log.setLevel(before)
