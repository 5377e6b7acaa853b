"""Extracts the pages of a PDF; runs in a child process, so it imports little."""

import logging
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

PAGE_BREAK = "\f\n"
"""Text between pages in the result. pypdf gives no form feed of its own."""


class EncryptedPdfError(Exception):
    """The file requires a password, or an encryption that pypdf does not know."""


class LimitExceededError(Exception):
    """A limit is exceeded; the text is the name of the limit, a space, and what was found."""


def extract(
    data: bytes,
    report: Callable[[Sequence[int]], None],
    *,
    pages: int,
    expanded_bytes: int,
    elements: int,
) -> str:
    """Return the text of all pages, separated by `PAGE_BREAK`.

    Args:
        data: the file.
        report: called with the number of pages read and the total.
        pages: largest number of pages.
        expanded_bytes: largest size of the contents of all pages after decompression.
        elements: largest number of text operators on all pages.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL + 1)
    reader = _opened(data)
    total = len(reader.pages)
    if total > pages:
        raise LimitExceededError(f"pages {total} pages")
    _check_contents(reader, expanded_bytes, elements)
    texts: list[str] = []
    size = 0
    for number, page in enumerate(reader.pages, start=1):
        texts.append(page.extract_text().replace("\f", " "))
        size += len(texts[-1])
        if size > expanded_bytes:
            raise LimitExceededError("expanded_bytes more text")
        report((number, total))
    return PAGE_BREAK.join(texts)


def _opened(data: bytes) -> Any:
    """Open a file; decrypt it with an empty password, which many public files have."""
    import pypdf
    from pypdf.errors import DependencyError

    try:
        reader = pypdf.PdfReader(BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise EncryptedPdfError
    except (DependencyError, NotImplementedError) as error:
        raise EncryptedPdfError(str(error)) from None
    return reader


def _check_contents(reader: Any, expanded_bytes: int, elements: int) -> None:
    """Measure the contents of all pages before any is parsed, which takes far longer."""
    size = operators = 0
    for page in reader.pages:
        contents = page.get_contents()
        if contents is None:
            continue
        data = contents.get_data()
        size += len(data)
        operators += data.count(b"Tj") + data.count(b"TJ")
        if size > expanded_bytes:
            raise LimitExceededError("expanded_bytes more on its pages after decompression")
        if operators > elements:
            raise LimitExceededError("elements more text operators")
