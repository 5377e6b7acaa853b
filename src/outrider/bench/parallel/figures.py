"""Summaries of the records: one row for each task and method, paired with one token a round."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from outrider.bench.constraints.records import Record
from outrider.bench.parallel.methods import BASE
from outrider.bench.statistics import RESAMPLES, Ratio
from outrider.core.values import JsonValue

ALL = "all"
"""The row over all tasks; each task has the same number of items."""


def summary(records: Sequence[Record]) -> list[dict[str, JsonValue]]:
    """Return the rows: tasks in their order, methods in their order, then those over all tasks."""
    tasks = list(dict.fromkeys(str(one["task"]) for one in records))
    methods = list(dict.fromkeys(str(one["method"]) for one in records))
    rows: list[dict[str, JsonValue]] = []
    for task in [*tasks, ALL] if len(tasks) > 1 else tasks:
        own = [one for one in records if task in (one["task"], ALL)]
        base = _of(own, BASE)
        rows += [_row(task, method, _of(own, method), base) for method in methods]
    return rows


def _of(records: Sequence[Record], method: str) -> dict[tuple[str, str], Record]:
    return {(str(one["task"]), str(one["item"])): one for one in records if one["method"] == method}


def _row(
    task: str,
    method: str,
    own: dict[tuple[str, str], Record],
    base: dict[tuple[str, str], Record],
) -> dict[str, JsonValue]:
    pairs = [(own[key], base[key]) for key in own if key in base]
    tokens, rounds = (sum(one[name] for one in own.values()) for name in ("tokens", "rounds"))
    lost = [mine["score"] - other["score"] for mine, other in pairs]
    return {
        "task": task,
        "method": method,
        "items": len(own),
        **{
            name: fmean(one[name] for one in own.values())
            for name in ("score", "rounds", "forwards", "rows", "seconds")
        },
        "tokens_per_round": tokens / rounds,
        "score_change": fmean(lost) if lost else None,
        "score_interval": list(interval(lost)) if lost else None,
        **{
            f"{name}_ratio": _ratio([other[name] / mine[name] for mine, other in pairs])
            for name in ("rounds", "rows", "seconds")
        },
    }


def _ratio(ratios: Sequence[float]) -> JsonValue:
    found = Ratio.of(ratios)
    return None if found is None else {**found.to_dict()}


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    drawn = np.random.default_rng(seed).choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(1), (0.025, 0.975))
    return float(low), float(high)
