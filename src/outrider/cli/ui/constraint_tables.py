"""Tables of `outrider bench constraints`."""

from collections.abc import Mapping, Sequence

from outrider.cli.ui.render import Screen
from outrider.core.values import JsonValue

_NONE = ""


def show(
    rows: Sequence[Mapping[str, JsonValue]],
    refusals: Mapping[str, Mapping[str, int]],
    screen: Screen,
) -> None:
    """Print judgements, times, and why schemas were refused."""
    screen.table("Judgements, in schemas", [_judgements(row) for row in rows], labels=2)
    screen.table("Times and forced tokens", [_times(row) for row in rows], labels=2)
    for engine, counts in refusals.items():
        shown = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        screen.note(f"refused by {engine}: {shown}")


def _judgements(row: Mapping[str, JsonValue]) -> dict[str, str]:
    names = ("schemas", "accepted", "refused", "limit", "slow", "crash")
    wrong = ("over", "under", "disputed", "failed")
    return {
        "engine": row["engine"],
        "split": row["split"],
        **{name: str(row[name]) for name in (*names, *wrong)},
        **{name: _share(row[name]) for name in ("declared", "true", "compliance")},
    }


def _times(row: Mapping[str, JsonValue]) -> dict[str, str]:
    compiled, masks = row["compile_ms"], row["mask_us"]
    return {
        "engine": row["engine"],
        "split": row["split"],
        "compile, ms: p50": _number(compiled.get("p50")),
        "p99": _number(compiled.get("p99")),
        "max": _number(compiled.get("max")),
        "masks": str(row["tokens"]),
        "mask, µs: p50": _number(masks.get("p50")),
        "p99 ": _number(masks.get("p99")),
        "p99.9": _number(masks.get("p999")),
        "max ": _number(masks.get("max")),
        "single": _share(row["single"]),
        "forced": _share(row["forced"]),
    }


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}"
