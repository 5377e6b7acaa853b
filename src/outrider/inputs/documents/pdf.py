"""Extracts the text of a PDF, page by page, in a child process with limits."""

from collections.abc import Callable
from importlib.util import find_spec

from outrider.core.errors import MissingExtraError, OptionError
from outrider.core.isolation import ChildLimits, FailedCallError, IsolationError, call_isolated
from outrider.inputs.documents.limits import DEFAULT, DocumentLimits, exceeded
from outrider.inputs.documents.pdf_pages import PAGE_BREAK

PageRead = Callable[[int, int], None]
"""Called with the number of pages read and the total number."""

_EXTRACT = "outrider.inputs.documents.pdf_pages:extract"
_LIMITS = {"seconds": "seconds", "memory": "memory_bytes", "size": "expanded_bytes"}
"""Reason of `IsolationError` -> field of `DocumentLimits`."""


def pdf_text(
    data: bytes,
    name: str,
    page_read: PageRead | None = None,
    limits: DocumentLimits = DEFAULT,
) -> str:
    """Extract the text of all pages, separated by empty lines.

    Raises:
        MissingExtraError: pypdf is not installed.
        OptionError: the file is damaged or encrypted, its pages are images, or it exceeds a limit.
    """
    if not _installed("pypdf"):
        raise MissingExtraError("pypdf", "context")
    pages = _pages(data, name, page_read, limits)
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    if not text:
        raise OptionError(
            f"{name} holds no text: its {len(pages)} pages are images, such as a scan",
            hint="Extract the text with OCR, and give the text",
        )
    # Fonts can map to half surrogate pairs and to null characters.
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _pages(data: bytes, name: str, page_read: PageRead | None, limits: DocumentLimits) -> list[str]:
    try:
        text = call_isolated(
            _EXTRACT,
            data,
            {name: getattr(limits, name) for name in ("pages", "expanded_bytes", "elements")},
            limits=ChildLimits(
                seconds=limits.seconds,
                memory_bytes=limits.memory_bytes,
                result_bytes=4 * limits.expanded_bytes,
            ),
            report=None if page_read is None else lambda numbers: page_read(*numbers),
        )
    except IsolationError as error:
        if error.reason == "crash":
            raise OptionError(
                f"{name} cannot be read as PDF: the reader ended without a result",
                hint="Write it again, or give text",
            ) from None
        raise exceeded(name, _LIMITS[error.reason], limits) from None
    except FailedCallError as error:
        raise _refusal(error, name, limits) from None
    return text.split(PAGE_BREAK)


def _refusal(error: FailedCallError, name: str, limits: DocumentLimits) -> OptionError:
    if error.kind == "EncryptedPdfError":
        return OptionError(
            f"{name} is encrypted{f' ({error!s:.100})' if str(error) else ''}",
            hint="Remove the password, such as with qpdf --decrypt",
        )
    if error.kind == "LimitExceededError":
        limit, found = str(error).split(" ", 1)
        return exceeded(name, limit, limits, found)
    return OptionError(
        f"{name} cannot be read as PDF: {str(error)[:120] or error.kind}",
        hint="Write it again, or give text",
    )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # a module without a specification
        return False
