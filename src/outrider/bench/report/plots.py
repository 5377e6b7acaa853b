"""Draws the four plots of a report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from outrider.core.errors import MissingExtraError

Figures = Mapping[str, Any]

COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c6d31",
    "#7f7f7f",
)
"""Colors that color-blind readers can distinguish (Okabe and Ito)."""

PARTS = {"draft": "#009e73", "verify": "#0072b2", "accept": "#e69f00", "other": "#bbbbbb"}
_DPI = 144
_FEW = 10
_WIDEST = 13.0


def require_matplotlib() -> Any:
    """Import matplotlib. Raises `MissingExtraError` with the command that installs it."""
    try:
        import matplotlib.figure
    except ImportError:
        raise MissingExtraError("matplotlib", "bench") from None
    return matplotlib.figure


def draw_plots(summary: Figures, folder: Path) -> dict[str, Path]:
    """Write each plot that has data as a PNG; return title -> file, in reading order."""
    plots: dict[str, tuple[str, Callable[[Figures], Any]]] = {
        "Speedup by workload": ("speedup.png", _speedup),
        "Acceptance by position": ("acceptance.png", _acceptance),
        "Time split": ("time_split.png", _time_split),
        "Verify cost": ("verify_cost.png", _verify_cost),
    }
    written: dict[str, Path] = {}
    for title, (name, draw) in plots.items():
        figure = draw(summary)
        if figure is not None:
            figure.savefig(folder / name, dpi=_DPI)
            written[title] = folder / name
    return written


def _canvas(summary: Figures, title: str, width: float = 8.0, height: float = 4.2) -> Any:
    """Create a figure and its axes with a title, which marks a cost-scaled run."""
    figure = require_matplotlib().Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold")
    if summary["label"]:
        figure.supxlabel(summary["label"], fontsize=8, color="#555555")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _speedup(summary: Figures) -> Any:
    """Draw bars with 95 % intervals, grouped by workload: speedup of each system over undrafted."""
    workloads = {n: w for n, w in summary["workloads"].items() if w["systems"]}
    if len(workloads) == 2:
        workloads.pop("all", None)
    systems = _systems(workloads, lambda name, f: name != "none" and f["speedup"])
    if not systems:
        return None
    bars = len(workloads) * len(systems)
    wide = min(max(8.0, 1.5 + 0.32 * bars), _WIDEST)
    figure, axes = _canvas(summary, "Speedup by workload", width=wide)
    width = 0.8 / len(systems)
    for i, system in enumerate(systems):
        found = [
            (x, w["systems"][system]["speedup"])
            for x, w in enumerate(workloads.values())
            if system in w["systems"] and w["systems"][system]["speedup"]
        ]
        means = [r["mean"] for _, r in found]
        axes.bar(
            [x + (i - (len(systems) - 1) / 2) * width for x, _ in found],
            means,
            width * 0.92,
            yerr=[
                [r["mean"] - r["low"] for _, r in found],
                [r["high"] - r["mean"] for _, r in found],
            ],
            error_kw={"elinewidth": 1, "ecolor": "#333333"},
            capsize=2 if bars < 40 else 0,
            color=COLORS[i % len(COLORS)],
            hatch="//" if i >= len(COLORS) else None,
            label=system,
        )
    axes.axhline(1, color="#333333", linewidth=1)
    axes.set_xticks(range(len(workloads)), list(workloads))
    axes.set_ylabel("times the undrafted speed")
    axes.grid(axis="y", alpha=0.3)
    _legend(figure, axes)
    return figure


def _acceptance(summary: Figures) -> Any:
    """Draw acceptance over the position in the draft, for all workloads together."""
    systems = summary["workloads"]["all"]["systems"]
    drafting = {name: f for name, f in systems.items() if f.get("drafted")}
    if not drafting:
        return None
    figure, axes = _canvas(summary, "Accepted of drafted tokens, by position in the draft")
    for i, (name, f) in enumerate(drafting.items()):
        known = _known(f)
        axes.plot(
            [position for position, _ in known],
            [share for _, share in known],
            marker="o",
            markersize=4,
            linestyle="--" if i >= len(COLORS) else "-",
            color=COLORS[_color_of(name, systems)],
            label=name,
        )
    deepest = max(position for f in drafting.values() for position, _ in _known(f))
    axes.set_xticks(range(1, deepest + 1, max(1, deepest // 16)))
    axes.set_xlabel(f"position in the draft, where {_FEW} tokens or more were drafted")
    axes.set_ylabel("share accepted")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def _known(f: Figures) -> list[tuple[int, float]]:
    """Return positions, from 1, with acceptance: those drafted often enough, or the first."""
    drafted = f["drafted_at"]
    pairs = list(enumerate(f["acceptance_at"], start=1))
    return [pair for pair in pairs if drafted[pair[0] - 1] >= _FEW] or pairs[:1]


def _time_split(summary: Figures) -> Any:
    """Draw one stacked bar for each strategy: milliseconds per token after the prompt."""
    systems = summary["workloads"]["all"]["systems"]
    split = {name: f for name, f in systems.items() if "time_split" in f}
    if not split:
        return None
    figure, axes = _canvas(summary, "Where the time goes", height=1.6 + 0.42 * len(split))
    names = list(split)[::-1]
    left = [0.0] * len(names)
    for part, color in PARTS.items():
        ms = [
            1000 * split[n]["time_split"]["seconds"][part] / max(split[n]["tokens"], 1)
            for n in names
        ]
        axes.barh(names, ms, 0.7, left=left, color=color, label=part)
        left = [a + b for a, b in zip(left, ms, strict=True)]
    for y, total in enumerate(left):
        axes.text(total, y, f" {total:.2f}", va="center", fontsize=9)
    axes.set_xlabel("milliseconds per token, without the prompt")
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)
    _legend(figure, axes)
    return figure


def _verify_cost(summary: Figures) -> Any:
    """Draw the time of n rows over that of one for each tier, and a line of n times as a
    reference.
    """
    costs = {tier: c for tier, c in summary["costs"].items() if c["verify_cost"]}
    if not costs:
        return None
    figure, axes = _canvas(summary, "Verify cost: a forward over n rows against one")
    highest = 1.0
    for i, (tier, cost) in enumerate(costs.items()):
        rows = [1, *(int(n) for n in cost["verify_cost"])]
        ratios = [1.0, *cost["verify_cost"].values()]
        highest = max(highest, *ratios)
        label = f"{tier}: {cost['parameters'] / 1e6:.1f}M {cost['dtype']}, {cost['ms']['1']:.2f} ms"
        axes.plot(rows, ratios, marker="o", color=COLORS[i % len(COLORS)], label=label)
    line = [1 + i * (highest * 1.05 - 1) / 50 for i in range(51)]
    axes.plot(line, line, ":", color="#777777", label="n times")
    axes.set_xscale("log", base=2)
    widest = sorted({int(n) for c in costs.values() for n in c["ms"]})
    axes.set_xticks(widest, [str(n) for n in widest])
    axes.set_ylim(0.8, highest * 1.08)
    axes.set_xlabel("rows in the forward, n")
    axes.set_ylabel("time(n) / time(1)")
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def _systems(workloads: Figures, wanted: Callable[[str, Figures], Any]) -> list[str]:
    found = [
        name for w in workloads.values() for name, f in w["systems"].items() if wanted(name, f)
    ]
    return list(dict.fromkeys(found))


def _color_of(name: str, systems: Sequence[str] | Figures) -> int:
    """Return the color index of a system in the first plot, which has no baseline."""
    others = [n for n in systems if n != "none"]
    return others.index(name) % len(COLORS)


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False)
