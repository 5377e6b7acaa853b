"""Draws a selection: the input from top to bottom, the answer from left to right."""

from io import BytesIO
from typing import Any

import numpy as np

from outrider.context.explain.history import History
from outrider.context.reading import Reading
from outrider.core.errors import MissingExtraError

_READ, _UNREAD = "viridis_r", "Greys"
_CAME, _WENT, _INK = "#c2410c", "#0f172a", "#334155"
_MOST_NAMES = 16
_DPI = 140


def picture(history: History, reading: Reading) -> bytes:
    """Draw a PNG: scores are in color for chunks that are read, in gray for others.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "context") from error
    chunks = len(history.context.chunks)
    # Not pyplot, which keeps figures and a backend for the whole process.
    figure = Figure(figsize=(9.5, float(np.clip(2.2 + 0.16 * chunks, 3.6, 9.0))), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    _shade(figure, axes, history)
    _mark_swaps(axes, history)
    _name(axes, history)
    axes.set_xlabel("generated tokens")
    axes.set_ylabel("tokens of the input")
    axes.set_title(_title(reading), loc="left", fontsize=11, color=_INK, pad=24)
    out = BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _shade(figure: Any, axes: Any, history: History) -> None:
    context = history.context
    rows = np.array(context.starts) - context.start
    grid, read = history.scores.T, history.read.T
    for cells, colours in ((~read, _pale()), (read, _READ)):
        low, high = (grid[cells].min(), grid[cells].max()) if cells.any() else (0.0, 0.0)
        axes.pcolormesh(
            history.times,
            rows,
            np.ma.array(grid, mask=~cells),
            cmap=colours,
            vmin=low,
            vmax=high if high > low else low + 1.0,
        )
    axes.invert_yaxis()
    axes.hlines(rows[1:-1], *history.times[:: len(history.times) - 1], color="white", lw=0.6)
    bar = figure.colorbar(axes.collections[1], ax=axes, pad=0.02, fraction=0.04)
    bar.set_label("score, of chunks that are read")
    bar.outline.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)


def _pale() -> Any:
    """Return the light half of the grays, so that unread chunks do not look like read ones."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[_UNREAD](np.linspace(0.06, 0.45, 64)))


def _mark_swaps(axes: Any, history: History) -> None:
    from matplotlib.patches import Patch

    starts = np.array(history.context.starts) - history.context.start
    centres = (starts[:-1] + starts[1:]) / 2
    handles: list[Any] = []
    for came, marker, colour, label in (
        (True, ">", _CAME, "read from here on"),
        (False, "X", _WENT, "no longer read"),
    ):
        found = [(at, centres[chunk]) for at, chunk, in_ in history.swaps if in_ is came]
        if found:
            handles.append(
                axes.scatter(
                    *zip(*found, strict=True),
                    marker=marker,
                    s=52,
                    color=colour,
                    edgecolors="white",
                    linewidths=0.8,
                    label=label,
                    zorder=3,
                    clip_on=False,
                )
            )
    handles.append(Patch(color=_pale()(0.5), label="not read"))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        borderaxespad=0.2,
    )


def _name(axes: Any, history: History) -> None:
    """Mark where each file begins, with its name, if there are several but not too many."""
    names, starts = history.context.names, history.context.starts
    firsts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
    if not 1 < len(firsts) <= _MOST_NAMES:
        return
    for first in firsts:
        at = starts[first] - history.context.start
        axes.axhline(at, color=_INK, lw=1.1)
        axes.annotate(
            _short(names[first]),
            (0, at),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=_INK,
            bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.8},
        )


def _short(name: str, most: int = 40) -> str:
    # A dollar sign would start a formula.
    name = name if len(name) <= most else f"…{name[1 - most :]}"
    return name.replace("$", r"\$")


def _title(reading: Reading) -> str:
    how = reading.selector + (f" ({_short(reading.encoder)})" if reading.encoder else "")
    chosen, chunks = len(reading.selection.chosen), len(reading.selection.context.chunks)
    return f"{how}: {chosen} of {chunks} chunks at the end, swaps: {reading.swaps}"
