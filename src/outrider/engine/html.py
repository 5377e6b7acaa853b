"""Shows a result as HTML, in a notebook: the text tinted by source, a legend, and figures."""

from collections.abc import Iterable, Mapping
from html import escape

_TINTS = {
    "draft": "46, 160, 67",
    "qualifier": "210, 153, 34",
    "target": "163, 113, 247",
}
"""Red, green and blue of the background of each source, in the hues of the command line."""

_OTHERS = ("9, 170, 190", "56, 125, 255", "248, 81, 73")
"""Tints of further qualifiers in deeper cascades."""

_OPACITY = 0.22
"""The tint lies on the background of the page and the text keeps its color, so that both light and
dark pages keep their contrast."""

_CONTROLS = {c: "\ufffd" for c in (*range(32), 127) if chr(c) not in "\t\n"}
"""Control characters have no place in HTML."""


def result_html(spans: Iterable[tuple[str, str]], sources: Mapping[str, int], figures: str) -> str:
    """Return the text of a result as HTML, escaped.

    Args:
        spans: pieces of the text, each with the tier that wrote it.
        sources: number of tokens by tier; those without tokens are left out of the legend.
        figures: one line of plain text below.
    """
    text = "".join(_span(piece, source) for piece, source in spans)
    legend = " ".join(_span(f"{name} {count}", name) for name, count in sources.items() if count)
    return (
        f'<div style="white-space: pre-wrap; overflow-wrap: anywhere">{text}</div>'
        f'<div style="margin-top: 0.5em; font-size: smaller">{legend} tokens; {_plain(figures)}'
        "</div>"
    )


def tint(source: str) -> str:
    """Return the background of a tier's text, as a color of CSS."""
    number = source.removeprefix("qualifier")
    other = _OTHERS[int(number) % len(_OTHERS)] if number.isdigit() else _OTHERS[0]
    return f"rgba({_TINTS.get(source, other)}, {_OPACITY})"


def _span(text: str, source: str) -> str:
    return (
        f'<span title="{escape(source)}" style="background: {tint(source)}; color: inherit">'
        f"{_plain(text)}</span>"
    )


def _plain(text: str) -> str:
    return escape(text.translate(_CONTROLS))
