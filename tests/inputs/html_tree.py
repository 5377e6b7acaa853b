"""The text of an HTML page by BeautifulSoup's tree: what the streaming reader is compared with."""

import re
from typing import Any

from bs4 import BeautifulSoup
from bs4.exceptions import ParserRejectedMarkup

_UNSEEN = {"head", "script", "style", "template", "noscript", "svg", "math", "iframe", "object"}
_PARAGRAPHS = {
    "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3",
    "h4", "h5", "h6", "header", "hr", "html", "legend", "main", "nav", "ol", "p", "pre",
    "section", "summary", "table", "tbody", "tfoot", "thead", "ul",
}  # fmt: skip
_LINES = {"br", "caption", "li", "option", "tr"}
_CELLS = {"td", "th"}
_SPACE = re.compile(r"\s+")


def tree_text(page: str) -> str | None:
    """The visible text of a page; None if it cannot be parsed."""
    try:
        tree = BeautifulSoup(page, "html.parser")
    except ParserRejectedMarkup:
        return None
    parts: list[str] = []
    _collect(tree, parts)
    return _tidy("".join(parts))


def _collect(page: Any, parts: list[str]) -> None:
    """Collect the text nodes of `page` in order, and line breaks. Iterative: pages can be deep."""
    from bs4.element import NavigableString, PreformattedString, Tag

    todo: list[tuple[Any, bool]] = [(page, False)]
    while todo:
        node, kept = todo.pop()  # kept: white space is preserved
        if isinstance(node, str) and not isinstance(node, NavigableString):
            parts.append(node)  # a line break, added to follow an element
        elif isinstance(node, NavigableString):
            if not isinstance(node, PreformattedString):  # comments and similar nodes
                parts.append(str(node) if kept else _SPACE.sub(" ", node))
        elif isinstance(node, Tag) and not _unseen(node):
            gap = _gap(node.name)
            kept = kept or node.name == "pre"
            parts.append(f"{gap}- " if node.name == "li" else gap)
            if node.name in _PARAGRAPHS:
                todo.append((gap, kept))
            todo += [(child, kept) for child in reversed(node.contents)]


def _gap(name: str) -> str:
    if name in _PARAGRAPHS:
        return "\n\n"
    return "\n" if name in _LINES else " " if name in _CELLS else ""


def _unseen(node: Any) -> bool:
    style = _SPACE.sub("", str(node.get("style") or "")).lower()
    return node.name in _UNSEEN or node.has_attr("hidden") or "display:none" in style


def _tidy(text: str) -> str:
    """Remove white space at line ends and repeated empty lines; keep the indentation of code."""
    lines = [line[1:] if re.match(r" \S", line) else line for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(map(str.rstrip, lines))).strip()
