"""Limits on the files that are read as documents."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError, reject_unknown
from outrider.core.expression import Expression

OPTION = "--document-limits"


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentLimits:
    """Limits on what is read of each document. All can be raised.

    Attributes:
        bytes: size of a file, or of standard input.
        expanded_bytes: size of a text or an HTML page; of a PDF, the contents of all pages after
            decompression.
        elements: elements of an HTML page, or text operators on all pages of a PDF together.
        pages: pages of a PDF.
        depth: HTML elements that are open at once.
        folder_depth: folders within folders.
        files: entries of a folder, its folders included.
        seconds: time for one document.
        memory_bytes: memory of the process that reads a PDF.
    """

    bytes: int = 256 << 20
    expanded_bytes: int = 64 << 20
    elements: int = 2_000_000
    pages: int = 10_000
    depth: int = 100_000
    folder_depth: int = 64
    files: int = 1_000_000
    seconds: float = 60.0
    memory_bytes: int = 2 << 30

    _SECONDS: ClassVar[Range] = Range(0, 1e6, above=True, hint="Give seconds above 0")

    def __post_init__(self) -> None:
        """Check all ranges. Raises `OptionError`."""
        whole = Range(1, whole=True, hint=AT_LEAST_ONE.hint)
        names = [field.name for field in fields(self)]
        check_ranges(self, {n: self._SECONDS if n == "seconds" else whole for n in names})

    @classmethod
    def parse(cls, text: str) -> "DocumentLimits":
        """Parse limits as the command line takes them: `pages=5000,seconds=120`.

        Raises `OptionError`.
        """
        found = Expression.parse(f"limits({text})", OPTION)
        reject_unknown("document limit", [part.name for part in found.inner], _names())
        reject_unknown("document limit", found.options, _names())
        if found.inner:
            raise OptionError(
                f"{OPTION} is {text!r}", hint='Give limit=number, such as "pages=5000,seconds=120"'
            )
        return cls.of(found.options)

    @classmethod
    def of(cls, options: Mapping[str, object]) -> "DocumentLimits":
        """Make limits of options by name; 1e9 counts as a whole number. Raises `OptionError`."""
        whole = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in options.items()
        }
        return cls(**whole)  # pyright: ignore[reportArgumentType]


DEFAULT = DocumentLimits()


def exceeded(
    name: str, limit: str, limits: DocumentLimits, found: str = "", *, hint: str = ""
) -> OptionError:
    """Return the error for a document that exceeds a limit.

    Args:
        name: the file.
        limit: a field of `DocumentLimits`.
        limits: the limits.
        found: what the document has, such as `12000 pages`.
        hint: how to fix it where the limit cannot be raised; the usual one names the option of the
            command line and the argument of Python.
    """
    value = getattr(limits, limit)
    value = round(value, 3) if isinstance(value, float) else value
    return OptionError(
        f"{name} exceeds the limit {limit}={value}{f': it has {found}' if found else ''}",
        hint=hint
        or f'Leave it out, or raise the limit, such as {OPTION} "{limit}={value * 2}" '
        f"(in Python: limits=DocumentLimits({limit}={value * 2}))",
    )


def _names() -> list[str]:
    return [field.name for field in fields(DocumentLimits)]
