"""Extracts the visible text of an HTML page, in paragraphs, without building a tree.

Elements are opened and closed as by BeautifulSoup with `html.parser`: an end tag closes all
elements up to the nearest one of its name, and is ignored if there is none.
"""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

from outrider.core.errors import MissingExtraError, OptionError
from outrider.inputs.documents.limits import DEFAULT, DocumentLimits, exceeded
from outrider.inputs.documents.plain import decoded

_UNSEEN = {"head", "script", "style", "template", "noscript", "svg", "math", "iframe", "object"}
_PARAGRAPHS = {
    "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3",
    "h4", "h5", "h6", "header", "hr", "html", "legend", "main", "nav", "ol", "p", "pre",
    "section", "summary", "table", "tbody", "tfoot", "thead", "ul",
}  # fmt: skip
_LINES = {"br", "caption", "li", "option", "tr"}
_CELLS = {"td", "th"}
_VOID = {
    "area", "base", "basefont", "bgsound", "br", "col", "command", "embed", "frame", "hr",
    "image", "img", "input", "isindex", "keygen", "link", "menuitem", "meta", "nextid", "param",
    "source", "spacer", "track", "wbr",
}  # fmt: skip
_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"[xX]([0-9a-fA-F]*)(.*)|([0-9]*)(.*)", re.DOTALL)
_MOST_SEARCHED = 10**8
"""Largest number of characters that the parser may search for the ends of incomplete elements."""

_LARGE = 1 << 20
"""Size of a page, in characters, from which on attributes are counted before they are parsed."""

_MOST_ATTRIBUTES = 100_000
_BETWEEN = " \n\t\r\f'\"/"
"""Characters between attributes."""

_MOST_DIGITS = 10
"""More significant digits are no character, and a conversion takes quadratic time."""


def html_text(data: bytes, name: str, limits: DocumentLimits = DEFAULT) -> str:
    """Return paragraphs with an empty line between them; list items and table rows are lines.

    Scripts, styles and hidden elements are left out.

    Raises:
        MissingExtraError: beautifulsoup4 is not installed.
        OptionError: the data is not text in a known encoding, or the page exceeds a limit.
    """
    try:
        import bs4  # noqa: F401  # pyright: ignore[reportUnusedImport]
        from bs4.dammit import EncodingDetector
    except ImportError as error:
        raise MissingExtraError("beautifulsoup4", "context") from error
    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    page = _Page(name, limits)
    try:
        text = decoded(data, name, declared)
        _check_closed(text, ">", "<")
        _check_closed(text, "-->", "<!--")
        page.feed(text)
        page.close()
    except (AssertionError, ValueError) as error:  # declarations that html.parser cannot read
        reason = " ".join(str(error).split())[:120]
        raise OptionError(
            f"{name} cannot be read as HTML: {reason}", hint="Write it again, or give text"
        ) from None
    return _tidy("".join(page.parts))


def _check_closed(text: str, close: str, opening: str) -> None:
    """Raise `ValueError` for many openings without a close: the parser searches for each."""
    rest = text.rfind(close) + 1
    count = text.count(opening, rest)
    if count * (len(text) - rest) > _MOST_SEARCHED:
        raise ValueError(f"{count} times {opening!r} at its end, and no {close!r}")


@dataclass(frozen=True, slots=True)
class _Open:
    """An open element: its name, whether it is hidden, and whether white space is kept."""

    name: str
    hidden: bool
    kept: bool


class _Page(HTMLParser):
    """Collects the text of a page while it is parsed."""

    def __init__(self, name: str, limits: DocumentLimits) -> None:
        from bs4.dammit import EntitySubstitution, UnicodeDammit

        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._name, self._limits = name, limits
        self._until = time.monotonic() + limits.seconds
        self._entities: Mapping[str, str] = EntitySubstitution.HTML_ENTITY_TO_CHARACTER
        self._character = UnicodeDammit.numeric_character_reference
        self._open = [_Open("", hidden=False, kept=False)]
        self._counts: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()
        self._elements = 0
        self._pending: list[str] = []

    def parse_starttag(self, i: int) -> int:
        """Parse a start tag at a place; one with far too many attributes is refused before."""
        if len(self.rawdata) > _LARGE:
            end = self.check_for_whole_start_tag(i)
            if sum(self.rawdata.count(mark, i, end) for mark in _BETWEEN) > _MOST_ATTRIBUTES:
                raise exceeded(self._name, "elements", self._limits, "an element of this size")
        return super().parse_starttag(i)

    # -- elements ---------------------------------------------------------------------------

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Open an element; a void one is closed at once, and a later end tag of it is ignored."""
        self._enter(tag, dict(attrs))
        if tag in _VOID:
            self._leave(tag)
            self._closed[tag] += 1

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Open and close an element."""
        self._enter(tag, dict(attrs))
        self._leave(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close elements up to the nearest one with this name."""
        self._check_time()
        if self._closed[tag]:
            self._closed[tag] -= 1
        else:
            self._leave(tag)

    def _enter(self, tag: str, attributes: Mapping[str, str | None]) -> None:
        self._flush()
        self._check_time()
        self._elements += 1
        if self._elements > self._limits.elements:
            raise exceeded(self._name, "elements", self._limits, "more")
        if len(self._open) > self._limits.depth:
            raise exceeded(self._name, "depth", self._limits, "more elements within elements")
        around = self._open[-1]
        style = _SPACE.sub("", attributes.get("style") or "").lower()
        hidden = tag in _UNSEEN or "hidden" in attributes or "display:none" in style
        self._open.append(_Open(tag, around.hidden or hidden, around.kept or tag == "pre"))
        self._counts[tag] += 1
        if not self._open[-1].hidden:
            self.parts.append(f"{_gap(tag)}- " if tag == "li" else _gap(tag))

    def _leave(self, tag: str) -> None:
        self._flush()
        while self._counts[tag]:
            closed = self._open.pop()
            self._counts[closed.name] -= 1
            if not closed.hidden and closed.name in _PARAGRAPHS:
                self.parts.append(_gap(closed.name))
            if closed.name == tag:
                break

    # -- text -------------------------------------------------------------------------------

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self._check_time()
        self._pending.append(data)

    def handle_charref(self, name: str) -> None:
        """Collect the character of a number, and what follows the digits."""
        found = _NUMBER.fullmatch(name)
        assert found is not None
        digits, rest = (found[1], found[2]) if found[3] is None else (found[3], found[4])
        if digits:
            digits = digits.lstrip("0") or "0"
            number = 0x110000  # no character
            if len(digits) <= _MOST_DIGITS:
                number = int(digits, 16 if found[3] is None else 10)
            self.handle_data(self._character(number)[0])
        self.handle_data(rest)

    def handle_entityref(self, name: str) -> None:
        """Collect the character of a name; an unknown name is text."""
        self.handle_data(self._entities.get(name, f"&{name}"))

    def handle_comment(self, data: str) -> None:
        """Leave a comment out; text before and behind it is not joined."""
        self._check_time()
        self._flush()

    def handle_decl(self, decl: str) -> None:
        """Leave a declaration out."""
        self.handle_comment(decl)

    def unknown_decl(self, data: str) -> None:
        """Leave a declaration out."""
        self.handle_comment(data)

    def handle_pi(self, data: str) -> None:
        """Leave an instruction out."""
        self.handle_comment(data)

    def close(self) -> None:
        """Read what is left, and close all elements."""
        super().close()
        self._flush()
        for left in reversed(self._open):
            if not left.hidden and left.name in _PARAGRAPHS:
                self.parts.append(_gap(left.name))

    def _flush(self) -> None:
        around = self._open[-1]
        if self._pending and not around.hidden:
            text = "".join(self._pending)
            self.parts.append(text if around.kept else _SPACE.sub(" ", text))
        self._pending.clear()

    def _check_time(self) -> None:
        """Raise an error after the time limit; each step of the parser calls this."""
        if time.monotonic() > self._until:
            raise exceeded(self._name, "seconds", self._limits)


def _gap(name: str) -> str:
    if name in _PARAGRAPHS:
        return "\n\n"
    return "\n" if name in _LINES else " " if name in _CELLS else ""


def _tidy(text: str) -> str:
    """Remove white space at line ends and repeated empty lines; keep the indentation of code."""
    lines = [line[1:] if re.match(r" \S", line) else line for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(map(str.rstrip, lines))).strip()
