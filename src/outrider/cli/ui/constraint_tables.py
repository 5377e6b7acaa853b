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
    """Print what became of schemas, judgements, times, and why schemas were refused."""
    screen.table("Schemas", [_outcomes(row) for row in rows], labels=2)
    screen.table("Judgements, in accepted schemas", [_judgements(row) for row in rows], labels=2)
    title = "Times of compilation (ms) and of masks (µs); tokens that were forced"
    screen.table(title, [_times(row) for row in rows], labels=2)
    for engine, counts in refusals.items():
        shown = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        screen.note(f"refused by {engine}: {shown}")


def show_texts(rows: Sequence[Mapping[str, JsonValue]], screen: Screen) -> None:
    """Print how many texts were finished and valid, and how fast they were written."""
    screen.table("Texts", [_texts(row) for row in rows], labels=2)


def _outcomes(row: Mapping[str, JsonValue]) -> dict[str, str]:
    names = ("schemas", "accepted", "refused", "limit", "slow", "crash")
    return _labels(row) | {n: str(row[n]) for n in names} | {"declared": _share(row["declared"])}


def _judgements(row: Mapping[str, JsonValue]) -> dict[str, str]:
    names = ("valid", "invalid", "over", "under", "disputed", "failed")
    shares = {name: _share(row[name]) for name in ("true", "compliance")}
    return _labels(row) | {name: str(row[name]) for name in names} | shares


def _times(row: Mapping[str, JsonValue]) -> dict[str, str]:
    compiled, masks = row["compile_ms"], row["mask_us"]
    return {
        **_labels(row),
        "compile p50": _number(compiled.get("p50")),
        "p99": _number(compiled.get("p99")),
        "max": _number(compiled.get("max")),
        "masks": str(row["tokens"]),
        "mask p50": _number(masks.get("p50")),
        "p99 ": _number(masks.get("p99")),
        "p99.9": _number(masks.get("p999")),
        "max ": _number(masks.get("max")),
        "single": _share(row["single"]),
        "forced": _share(row["forced"]),
    }


def _texts(row: Mapping[str, JsonValue]) -> dict[str, str]:
    return {
        "strategy": row["strategy"],
        "split": row["split"],
        **{name: str(row[name]) for name in ("texts", "finished", "valid", "tokens")},
        "finished share": _share(row["finished_share"]),
        "valid of finished": _share(row["compliance"]),
        "valid of all": _share(row["valid_share"]),
        "forced": _share(row["forced"]),
        "tokens/s": _number(row["tokens_per_second"]),
    }


def _labels(row: Mapping[str, JsonValue]) -> dict[str, str]:
    return {"engine": row["engine"], "split": row["split"]}


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}"
