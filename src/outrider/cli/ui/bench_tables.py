"""Prints the tables of `outrider bench`."""

from collections.abc import Iterator, Mapping
from typing import Any

from outrider.cli.ui.render import CAVEAT, Screen

Figures = Mapping[str, Any]
NONE = "-"
PARTS = ("draft", "verify", "accept", "other")


def show(summary: Figures, screen: Screen) -> None:
    """Print every table of a run, then warnings."""
    if summary["label"]:
        screen.note(f"Every figure below: {summary['label']}.")
    for name, workload in summary["workloads"].items():
        if workload["systems"] and (name != "all" or len(summary["workloads"]) > 2):
            title = f"{name} ({workload['timed_prompts']} prompts)"
            systems = workload["systems"].items()
            screen.table(title, [_row(name, f, _is_lossy(workload)) for name, f in systems])
    everything = summary["workloads"]["all"]
    split = [_split_row(name, f) for name, f in everything["systems"].items()]
    if split:
        screen.table("Latency, and where the time after the prompt goes", split)
    depth = [r for n, f in everything["systems"].items() if (r := _depth_row(n, f))]
    if depth:
        screen.table("Acceptance by position", _even(depth))
    if summary["costs"]:
        screen.table(
            "One forward over n rows, after 200 tokens", [cost_row(c) for c in costs_of(summary)]
        )
    from outrider.bench.report.summary import (
        best_rows,
    )  # imports PyTorch, which --help does not need

    best = list(best_rows(summary, _interval, NONE))
    if best:
        screen.table("Our fastest exact strategy against the fastest rivals", best, labels=3)
    against = list(_against_rows(summary))
    if against:
        screen.table("Times faster than each rival (95 % interval)", against, labels=2)
    for line in remarks(summary):
        screen.note(line)


def remarks(summary: Figures) -> Iterator[str]:
    """Yield remarks that are needed to understand the figures."""
    strategies = summary["workloads"]["all"]["systems"].values()
    yield (
        "tok/s: tokens per second, prompt included, median. speedup: against undrafted in this "
        "run, geometric mean over prompts with its 95 % interval; decode: the same for the time "
        "after the prompt. TTFT, TPOT: time to the first token, and for each after it. accept: "
        "accepted of drafted tokens. tok/fwd: tokens per target forward. loops: tokens inside "
        "repeated 8-grams, which flatter lookups."
    )
    if _is_lossy(summary["workloads"]["all"]):
        yield f"changed: {CAVEAT}."
    if rounded := _rounded(summary["workloads"]["all"]):
        yield (
            f"{', '.join(rounded)}: identical up to rounding. The target computes a row slightly "
            "differently beside other rows, which may decide between two tokens that are almost "
            "equally likely."
        )
    peak = max((f["peak_resident_bytes"] for f in strategies), default=0)
    yield f"peak resident memory, all models of the run loaded: {peak / 2**20:.0f} MiB."
    for workload, count in summary["left_out"]["no_room"].items():
        yield f"{workload}: {count} prompts do not fit the target's window and were left out."
    short = summary["left_out"]["too_short"]
    if short:
        least = summary["settings"]["least_tokens"]
        yield f"{len(short)} prompts with answers under {least} tokens are left out of the figures."
    for name, about in summary["rivals"]["same_text"].items():
        yield (
            f"{name}, compared in float32: {about['equal_texts']} of {about['texts']} texts equal "
            f"Outrider's, {about['equal_tokens']:.1%} of tokens."
        )
    for name, reason in summary["rivals"]["missing"].items():
        yield f"{name} was not measured: {reason}"


def _is_lossy(workload: Figures) -> bool:
    return any(f.get("exactness") == "lossy" for f in workload["systems"].values())


def _rounded(workload: Figures) -> list[str]:
    """Return the strategies whose text is the undrafted one except for rounding."""
    systems = workload["systems"].items()
    return [name for name, f in systems if f.get("exactness") == "identical up to rounding"]


def costs_of(summary: Figures) -> Iterator[Figures]:
    """Yield the forward costs of each tier, with its name."""
    for tier, costs in summary["costs"].items():
        yield {"tier": tier, **costs}


def cost_row(costs: Figures) -> dict[str, str]:
    """Format one row of the table of forward costs."""
    rows = {n: f"{costs['verify_cost'][n]:.2f}x" for n in costs["verify_cost"]}
    return {
        "model": costs.get("tier", "model"),
        "parameters": f"{costs['parameters'] / 1e6:.1f}M",
        "dtype": costs["dtype"],
        "1, ms": f"{costs['ms']['1']:.3f}",
        **rows,
        "floor, ms": f"{costs['floor_ms']:.3f}",
        "floor/1": f"{costs['floor_share']:.0%}",
    }


def _row(name: str, f: Figures, lossy: bool) -> dict[str, str]:
    """Format one row of figures; rates are medians."""
    speed = f["tokens_per_second"]
    row = {
        "system": name,
        "tok/s": _median(speed, ".0f"),
        "min-max": f"{speed['min']:.0f}-{speed['max']:.0f}" if speed else NONE,
        "speedup": f"{f['speedup']['mean']:.2f}" if f["speedup"] else NONE,
        "95 %": _range(f["speedup"]) if name != "none" else NONE,
        "decode": f"{f['decode_speedup']['mean']:.2f}" if f["decode_speedup"] else NONE,
        "accept": f"{f['acceptance_rate']:.0%}" if f.get("drafted") else NONE,
        "tok/fwd": f"{f['block_efficiency']:.2f}" if "block_efficiency" in f else NONE,
        "loops": f"{f['repeated_share']:.0%}",
    }
    if lossy:
        row["changed"] = f"{f['changed_share']:.1%}" if f.get("exactness") == "lossy" else NONE
    return row


def _split_row(name: str, f: Figures) -> dict[str, str]:
    """Format latency, and each part's share of the time after the prompt."""
    split = f.get("time_split", {"share_of_decoding": {}})
    shares = {part: f"{share:.0%}" for part, share in split["share_of_decoding"].items()}
    return {
        "system": name,
        "TTFT, ms": _median(f["ttft_ms"], ".1f"),
        "TPOT, ms": _median(f["tpot_ms"], ".2f"),
        **{part: shares.get(part, NONE) for part in PARTS},
    }


def _depth_row(name: str, f: Figures) -> dict[str, str] | None:
    if not f.get("drafted"):
        return None
    shares = f["acceptance_at"]
    return {"system": name, **{str(i): f"{share:.2f}" for i, share in enumerate(shares, start=1)}}


def _even(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Give all rows the columns of the longest one."""
    longest = max(rows, key=len)
    return [{name: row.get(name, NONE) for name in longest} for row in rows]


def _against_rows(summary: Figures) -> Iterator[dict[str, str]]:
    for workload, figures in summary["workloads"].items():
        for rival, ratios in figures["against_rivals"].items():
            found = {name: _interval(ratio) for name, ratio in ratios.items()}
            yield {"workload": workload, "rival": rival, **found}


def _median(spread: Figures | None, form: str) -> str:
    return NONE if spread is None else format(spread["median"], form)


def _range(ratio: Figures | None) -> str:
    return NONE if ratio is None else f"{ratio['low']:.2f}-{ratio['high']:.2f}"


def _interval(ratio: Figures | None) -> str:
    return NONE if ratio is None else f"{ratio['mean']:.2f} [{_range(ratio)}]"
