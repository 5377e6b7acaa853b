"""Figures of a server that runs for long."""

import json
from pathlib import Path

import numpy as np
from benchmarks.serving.process import parsed
from benchmarks.serving.slope import MOST_POINTS, slope
from benchmarks.serving.soak import recorded, summary


def noisy(points: int, per_hour: float, seed: int = 0) -> tuple[list[float], list[float]]:
    """Half an hour of memory that wanders, with outliers, around a line."""
    rng = np.random.default_rng(seed)
    hours = np.linspace(0, 0.5, points)
    wander = np.zeros(points)
    for at in range(1, points):
        wander[at] = 0.8 * wander[at - 1] + rng.normal(scale=0.4)
    values = 500 + per_hour * hours + wander
    values[rng.integers(points, size=points // 50)] += 80
    return hours.tolist(), values.tolist()


def test_a_slope_is_found_despite_outliers() -> None:
    for points in (200, 2000):
        found = slope(*noisy(points, 12.0))
        assert found is not None and found.points == min(points, MOST_POINTS)
        assert 0 < found.low < 12 < found.high and abs(found.value - 12) < 3
        assert found == slope(*noisy(points, 12.0))


def test_the_interval_holds_the_slope_as_often_as_it_says() -> None:
    found = [slope(*noisy(64, 0.0, seed), seed=seed) for seed in range(12)]
    held = sum(one is not None and one.low <= 0 <= one.high for one in found)
    assert 9 <= held <= 12


def test_a_line_has_its_slope_and_no_uncertainty() -> None:
    found = slope([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0])
    assert found is not None and (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert slope([0.0, 1.0], [0.0, 1.0]) is None and slope([1.0] * 4, [0.0] * 4) is None


def test_the_summary_leaves_the_warm_up_out(tmp_path: Path) -> None:
    base = {"answers": 1, "left": 0, "conversations": 0, "failed": 0, "tokens": 9.0}
    base |= {"threads": 8, "descriptors": 20, "load_average": 1.0, "running": 0.0}
    lines = [base | {"phase": "idle", "seconds": 0.0, "rss": 100.0}]
    for second in range(1, 101):  # the memory grows for 20 s, and is constant then
        rss = 100.0 + 5 * min(second, 20)
        lines.append(base | {"phase": "load", "seconds": float(second), "rss": rss})
    lines.append(base | {"phase": "ended", "seconds": 101.0, "rss": 190.0})
    file = tmp_path / "soak.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"phase": "lo', encoding="utf-8")
    found = summary(recorded(file))
    assert found["samples"] == 81 and found["ended"]
    assert found["rss"]["per_hour"] == {"value": 0.0, "low": 0.0, "high": 0.0, "points": 81}
    assert (found["rss"]["idle"], found["rss"]["ended"]) == (100.0, 190.0)
    assert found["pss"]["per_hour"] is None


def test_gauges_are_found_in_metrics() -> None:
    text = (
        "# TYPE outrider:num_requests_running gauge\n"
        'outrider:num_requests_running{engine="0",model_name="tiny"} 3.0\n'
        'vllm:num_requests_running{engine="0",model_name="tiny"} 3.0\n'
        'outrider:generation_tokens_total{engine="0",model_name="tiny"} 1e+06\n'
    )
    assert parsed(text) == {"running": 3.0, "tokens": 1e6}
