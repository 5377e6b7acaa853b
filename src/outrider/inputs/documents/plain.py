"""Decodes the bytes of a file as text, or reports why they are not text."""

import codecs

from outrider.core.errors import OptionError

READ = "Text, Markdown, HTML and PDF are read"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # its mark begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MOST_CONTROL = 0.05
"""Bytes with a larger share of control characters are not text in any encoding."""

_NO_TEXT = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})
"""Codecs of Python that are no encodings of texts; some take quadratic time."""

_TEXT_CONTROL = frozenset(b"\t\n\r\f\x0b\x1b")


def decoded(data: bytes, name: str, declared: str | None = None) -> str:
    """Decode `data`: as UTF-8, by its byte order mark, or in the encoding that it has `declared`.

    Raises:
        OptionError: the data is not text, or is in another encoding.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strict(data, "utf-8-sig" if encoding == "utf-8" else encoding, name)
    if is_binary(data):
        raise OptionError(f"{name} is a binary file, not text", hint=READ)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        if declared is None:
            raise _not_utf8(name) from None
    if declared.lower().replace("-", "_") in _NO_TEXT:
        raise _not_utf8(name)
    return _strict(data, declared, name)


def is_binary(data: bytes) -> bool:
    """Whether `data` holds zero bytes, or too many control characters for a text."""
    head = data[: 1 << 16]
    control = sum(byte < 32 and byte not in _TEXT_CONTROL for byte in head)
    return b"\0" in data or control > _MOST_CONTROL * len(head)


def _strict(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeError:
        raise OptionError(
            f"{name} is marked as {encoding.upper().removesuffix('-SIG')}, but cannot be decoded",
            hint="Convert it to UTF-8",
        ) from None
    except LookupError:
        raise _not_utf8(name) from None


def _not_utf8(name: str) -> OptionError:
    return OptionError(
        f"{name} is not text in UTF-8", hint="Convert it, such as with iconv -t UTF-8"
    )
