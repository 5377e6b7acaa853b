"""Computes the figures of a report from single runs; ratios are computed last."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from statistics import geometric_mean, median
from typing import Any

from outrider.bench.measure import PARTS, Run
from outrider.bench.run import Measured
from outrider.bench.statistics import Ratio, Spread, equal_share, first_difference
from outrider.bench.strategies import BASELINE
from outrider.core import metrics
from outrider.core.types import SAME_TEXT

ALL = "all"
"""The name of the figures over all workloads."""

Rate = Callable[[Run], float | None]


def summarise(measured: Measured) -> dict[str, Any]:
    """Return plain data: figures of each system on each workload, and on all of them."""
    short = short_tasks(measured)
    workloads = list(dict.fromkeys(run.workload for run in measured.runs))
    return {
        "label": "; ".join(t.label for t in measured.tiers.values() if t.label) or None,
        "models": {name: tier.to_dict() for name, tier in measured.tiers.items()},
        "threads": measured.threads,
        "settings": measured.settings.to_dict(),
        "workloads": {name: _workload(measured, name, short) for name in [*workloads, ALL]},
        "costs": dict(measured.costs),
        "rivals": {
            "measured": list(measured.rivals),
            "missing": dict(measured.missing),
            "same_text": _rival_texts(measured),
        },
        "left_out": {"no_room": dict(measured.left_out), "too_short": sorted(short)},
        "mismatches": [m.to_dict() for m in measured.mismatches],
    }


def best_rows(
    summary: Mapping[str, Any], form: Callable[[Mapping[str, Any] | None], str], none: str
) -> Iterator[dict[str, str]]:
    """Yield a row for each workload: Outrider's fastest exact strategy and the fastest rivals.

    Args:
        summary: result of `summarise`.
        form: formats a ratio, or None.
        none: text for missing values.
    """
    for workload, figures in summary["workloads"].items():
        best = figures["best"]
        if best:
            yield {
                "workload": workload,
                "ours": best["strategy"],
                "fastest rival": best["rival"],
                "times faster": form(best["against_rival"]),
                "fastest lookup": best["lookup_rival"] or none,
                "times faster than it": form(best["against_lookup_rival"]),
            }


def short_tasks(measured: Measured) -> set[str]:
    """Return the prompts after which the baseline writes too little to measure a speed."""
    settings = measured.settings
    least = min(settings.least_tokens, settings.sampling["max_new_tokens"])
    return {r.task for r in measured.runs if r.system == BASELINE and r.tokens < least}


def _workload(measured: Measured, name: str, short: set[str]) -> dict[str, Any]:
    runs = [r for r in measured.runs if name in (r.workload, ALL)]
    timed = [r for r in runs if r.task not in short]
    by_system: dict[str, list[Run]] = {}
    for run in timed:
        by_system.setdefault(run.system, []).append(run)
    base = by_system.get(BASELINE, [])
    return {
        "prompts": len({r.task for r in runs}),
        "timed_prompts": len({r.task for r in timed}),
        "systems": {
            system: _figures(own, base, measured, system) for system, own in by_system.items()
        },
        "against_rivals": {
            rival: {
                system: _ratio(own, by_system[rival], seconds_per_token)
                for system, own in by_system.items()
                if system not in measured.rivals
            }
            for rival in measured.rivals
            if rival in by_system
        },
        "best": _best(by_system, measured),
    }


def _best(by_system: Mapping[str, list[Run]], measured: Measured) -> dict[str, Any] | None:
    """Compare the fastest exact strategy with the fastest rival, and the fastest lookup rival."""
    rivals = {name: runs for name, runs in by_system.items() if name in measured.rivals}
    exact = {
        name: runs for name, runs in by_system.items() if measured.exactness.get(name) in SAME_TEXT
    }
    if not rivals or not exact:
        return None
    own = _fastest(exact)
    lookups = {n: r for n, r in rivals.items() if measured.rivals[n].method == "lookup"}
    found: dict[str, Any] = {"strategy": own}
    for kind, group in {"rival": rivals, "lookup_rival": lookups}.items():
        name = _fastest(group) if group else None
        ratio = _ratio(by_system[own], group[name], seconds_per_token) if name else None
        found |= {kind: name, f"against_{kind}": ratio}
    return found


def _fastest(systems: Mapping[str, list[Run]]) -> str:
    """Return the system with the best geometric mean over prompts of the medians over repeats."""

    def seconds(runs: list[Run]) -> float:
        return geometric_mean(_by_task(runs, seconds_per_token).values())

    return min(systems, key=lambda name: seconds(systems[name]))


def _figures(
    runs: Sequence[Run], base: Sequence[Run], measured: Measured, system: str
) -> dict[str, Any]:
    """Compute all figures of one system."""
    tokens = sum(r.tokens for r in runs)
    figures: dict[str, Any] = {
        "runs": len(runs),
        "tokens": tokens,
        "tokens_per_second": _spread([1 / r.seconds_per_token for r in runs]),
        "ttft_ms": _spread([1000 * r.ttft_seconds for r in runs]),
        "tpot_ms": _spread([1000 * t for r in runs if (t := r.tpot_seconds) is not None]),
        "speedup": _ratio(runs, base, seconds_per_token),
        "decode_speedup": _ratio(runs, base, lambda r: r.decode_seconds_per_token),
        "repeated_share": metrics.ratio(sum(r.repeated for r in runs), tokens),
        "peak_resident_bytes": max(r.peak_bytes for r in runs),
        "peak_device_bytes": max(r.device_peak_bytes for r in runs),
    }
    if system in measured.rivals:
        rival = measured.rivals[system]
        return figures | {"kind": "rival", "precision": rival.precision, "method": rival.method}
    drafted_at, accepted_at = (
        _summed([r.drafted_at for r in runs]),
        _summed([r.accepted_at for r in runs]),
    )
    return figures | {
        "kind": "strategy",
        "exactness": str(measured.exactness[system]),
        "drafted": sum(r.drafted for r in runs),
        "accepted": sum(r.accepted for r in runs),
        "acceptance_rate": metrics.ratio(
            sum(r.accepted for r in runs), sum(r.drafted for r in runs)
        ),
        "drafted_at": drafted_at,
        "accepted_at": accepted_at,
        "acceptance_at": [
            metrics.ratio(a or 0, d) for a, d in zip_longest(accepted_at, drafted_at) if d
        ],
        "mean_accepted_length": metrics.ratio(
            sum(r.accepted + r.rounds for r in runs), sum(r.rounds for r in runs)
        ),
        "block_efficiency": metrics.ratio(tokens, sum(r.forwards for r in runs)),
        "changed_share": metrics.ratio(sum(r.changed for r in runs), tokens),
        "time_split": _time_split(runs),
        "predicted_over_measured": _prediction(runs),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    found = Spread.of(values)
    return found.to_dict() if found else None


def seconds_per_token(run: Run) -> float:
    """Return the seconds of a text, prompt included, per token."""
    return run.seconds_per_token


def _ratio(runs: Sequence[Run], base: Sequence[Run], rate: Rate) -> dict[str, float] | None:
    """Compute how many times faster `runs` are than `base`."""
    ratio = Ratio.of(list(ratios(runs, base, rate).values()))
    return ratio.to_dict() if ratio else None


def ratios(runs: Sequence[Run], base: Sequence[Run], rate: Rate) -> dict[str, float]:
    """Return for each prompt of both how many times faster `runs` are than `base`, by the medians
    over repeats."""
    ours, theirs = _by_task(runs, rate), _by_task(base, rate)
    return {task: theirs[task] / ours[task] for task in ours if task in theirs}


def _by_task(runs: Sequence[Run], rate: Rate) -> dict[str, float]:
    """Return the median rate of each prompt over its repeats, where there is a rate."""
    found: dict[str, list[float]] = {}
    for run in runs:
        value = rate(run)
        if value:
            found.setdefault(run.task, []).append(value)
    return {task: median(values) for task, values in found.items()}


def _summed(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip_longest(*rows, fillvalue=0)]


def _time_split(runs: Sequence[Run]) -> dict[str, Any]:
    """Sum the seconds of each part, and compute its share of the time after the prompt."""
    seconds = {part: sum(r.parts.get(part, 0.0) for r in runs) for part in PARTS}
    decoding = sum(seconds.values()) - seconds["prefill"]
    shares = {p: metrics.ratio(s, decoding) for p, s in seconds.items() if p != "prefill"}
    return {"seconds": seconds, "share_of_decoding": shares}


def _prediction(runs: Sequence[Run]) -> float | None:
    """Return predicted over measured tokens per second, the median over runs."""
    found = [
        r.predicted * (r.seconds - r.parts["prefill"]) / r.tokens
        for r in runs
        if r.predicted and r.tokens
    ]
    return median(found) if found else None


def _rival_texts(measured: Measured) -> dict[str, Any]:
    """Measure how far greedy texts of float32 rivals agree with undrafted float32 texts of
    Outrider.
    """
    return {
        name: _agreement([r for r in measured.runs if r.system == name], measured.reference)
        for name, rival in measured.rivals.items()
        if rival.precision == "float32" and measured.reference
    }


def _agreement(runs: Sequence[Run], plain: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    pairs = [(r, plain[r.task]) for r in runs if r.task in plain]
    first = [first_difference(r.token_ids, text) for r, text in pairs]
    shares = [equal_share(r.token_ids, text) for r, text in pairs]
    return {
        "texts": len(pairs),
        "equal_texts": sum(index is None for index in first),
        "equal_tokens": sum(shares) / len(shares) if shares else None,
        "earliest_difference": min((i for i in first if i is not None), default=None),
    }
