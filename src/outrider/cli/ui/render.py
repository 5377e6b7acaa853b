"""Terminal rendering: text colored by the tier that wrote it, a legend, one line of figures."""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from outrider.core.errors import OptionError, nearest

if TYPE_CHECKING:
    from outrider.policies.guard import GuardReport
    from outrider.protocols import ModelInfo

STYLES = {"draft": "green", "qualifier": "yellow", "target": "bold magenta"}
_OTHERS = ("cyan", "blue", "red")
"""Colors of further qualifiers in deeper cascades."""

COLORS = ("auto", "always", "never")

_SURROGATE = re.compile("[\ud800-\udfff]")

_FILE_WIDTH = 120
"""Width in columns of a table that is not on a terminal."""

CAVEAT = "relative to the target's choice given the text so far, not to the undrafted text"
"""Printed next to every number of changed tokens."""


def wants_color(choice: str, terminal: bool) -> bool:
    """Whether to color the text.

    Raises:
        OptionError: `choice` is not one of `COLORS`.
    """
    if choice not in COLORS:
        raise OptionError(f"unknown color {choice!r}", hint=nearest(choice, COLORS))
    return choice == "always" or (choice == "auto" and terminal and not os.environ.get("NO_COLOR"))


class Screen:
    """Writes text to standard output, and notes about it to standard error."""

    def __init__(self, color: str = "auto") -> None:
        self.colored = wants_color(color, sys.stdout.isatty())
        self.out = _console(sys.stdout, self.colored)
        self.err = _console(sys.stderr, wants_color(color, sys.stderr.isatty()))

    def write(self, text: str, source: str = "") -> None:
        """Write a piece of text unchanged, in the color of the tier that wrote it."""
        if self.colored and source:
            # Without `Console`, which drops control characters.
            text = Style.parse(style_of(source)).render(text, color_system=ColorSystem.STANDARD)
        sys.stdout.write(text)
        sys.stdout.flush()

    def write_spans(self, spans: Iterable[tuple[str, str]]) -> None:
        """Write pieces of text as they arrive."""
        for piece, source in spans:
            self.write(piece, source)

    def line(self, text: str) -> None:
        """Write a line of text, which is not wrapped."""
        self.out.print(text, markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Write a dimmed note about the text."""
        sys.stdout.flush()
        self.err.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def table(self, title: str, rows: Sequence[Mapping[str, str]], labels: int = 1) -> None:
        """Print records with equal keys as a table: `labels` columns of words, then figures."""
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=box.SIMPLE)
        for place, heading in enumerate(rows[0]):
            words = place < labels
            # a long label would take the place of the figures
            long = words and max(len(row[heading]) for row in rows) > _LONGEST_LABEL
            table.add_column(
                heading,
                justify="left" if words else "right",
                no_wrap=words and not long,
                max_width=_LONGEST_LABEL if long else None,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*row.values())
        self.out.print(table, markup=False)

    def legend(self, sources: Mapping[str, int]) -> None:
        """Print the color of each tier and the number of its tokens; nothing without colors."""
        if not self.colored:
            return
        sys.stdout.flush()
        for source, count in sources.items():
            self.err.out(f"{source} {count}  ", style=style_of(source), highlight=False, end="")
        self.err.out("tokens", style="dim", highlight=False)


_LONGEST_LABEL = 40


def style_of(source: str) -> str:
    """Return the style of a tier's text."""
    number = source.removeprefix("qualifier")
    if source in STYLES:
        return STYLES[source]
    return _OTHERS[int(number) % len(_OTHERS)] if number.isdigit() else _OTHERS[0]


def summary(figures: Mapping[str, Any]) -> str:
    """Format one line about one result, from its `to_dict()`."""
    parts = [f"{figures['completion_tokens']} tokens"]
    parts.append(f"{figures['tokens_per_second']:.1f} tokens/s")
    speculation = figures["speculation"]
    if speculation["drafted"]:
        parts.append(f"acceptance {speculation['acceptance_rate']:.0%}")
    parts.append(f"{speculation['block_efficiency']:.2f} tokens per target forward")
    if "denoised_rows" in speculation:
        forwards, rows = speculation["target_forwards"], speculation["denoised_rows"]
        parts.append(f"{forwards} forwards over {rows} positions in {speculation['rounds']} rounds")
    elif speculation["exactness"] == "lossy":
        parts.append(changes(speculation["changed_tokens"], figures["completion_tokens"]))
    else:
        parts.append(f"{speculation['mode']} ({speculation['exactness']})")
    if figures.get("guidance") is not None:
        parts.append(f"guidance {figures['guidance']}")
    if figures.get("cache"):
        parts.append(cache_kept(figures["cache"]))
    if figures.get("context"):
        parts.append(share_read(figures["context"]))
    return ", ".join(parts)


def cache_kept(cache: Mapping[str, Any]) -> str:
    """Format what caches under a policy have kept."""
    parts: list[str] = []
    if "policy" in cache:
        sizes = f"{size(cache['bytes'])}, all rows {size(cache['full_bytes'])}"
        parts.append(f"cache {cache['policy']} ({sizes})")
    if "draft_policy" in cache:
        parts.append(f"draft cache {cache['draft_policy']} ({size(cache['draft_bytes'])})")
    return ", ".join(parts)


def size(nbytes: int) -> str:
    """Format a number of bytes."""
    for unit, exponent in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if nbytes >= 1 << exponent:
            return f"{nbytes / (1 << exponent):.1f} {unit}"
    return f"{nbytes} bytes"


def weights_note(info: "ModelInfo") -> str:
    """Say which dtypes weights and cache have, and why; empty for a runner without a choice."""
    if not info.weights_reason:
        return ""
    return f"weights {info.weights}, cache {info.cache}: {info.weights_reason}"


def guard_note(report: "GuardReport | None") -> str:
    """Say that the guard has switched drafting off, or that drafts lose, and why; else empty."""
    if report is None or report.state == "on":
        return ""
    return f"drafting is {report.state}: {report.reason}"


def share_read(context: Mapping[str, Any]) -> str:
    """Format how much of a long input was held at the end, and by which tiers."""
    total = context["tokens"]
    if context["on"] is None:
        return f"read all {total:,} tokens of the input"
    swaps = f"{context['swaps']} swap{'' if context['swaps'] == 1 else 's'}"
    who = "drafters read" if context["on"] == "drafters" else "read"
    return (
        f"{who} {context['kept_tokens'] / max(total, 1):.0%} of {total:,} tokens of the input "
        f"({context['kept_chunks']} of {context['chunks']} chunks, {swaps})"
    )


def changes(changed: int, tokens: int) -> str:
    """Format how many tokens a lossy rule changed, with an explanation."""
    percent = changed / tokens if tokens else 0.0
    return f"{changed} changed tokens ({percent:.1%}; {CAVEAT})"


def print_json(value: Any) -> None:
    """Print one JSON object to standard output; escaped if the terminal does not support
    Unicode.
    """
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json_line(value, escaped=not unicode))


def json_line(value: Any, *, escaped: bool = False) -> str:
    """Format one JSON object in one line, with characters beyond ASCII as they are or escaped.

    File names that are not valid Unicode are always escaped, because they cannot be written
    otherwise.
    """
    line = json.dumps(_plain(value), ensure_ascii=escaped, allow_nan=False)
    if escaped or not _SURROGATE.search(line):
        return line
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    """Replace numbers that JSON lacks by null (a token without probability has -inf)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _console(stream: Any, colored: bool) -> Console:
    return Console(
        file=stream,
        force_terminal=True if colored else None,
        color_system="standard" if colored else None,
        no_color=not colored,
        width=None if stream.isatty() else _FILE_WIDTH,
    )
