"""Fits of tokens a round, and the plan from them: "Scaling Laws for Speculative Decoding"
(arXiv 2505.07858)."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from outrider.analysis.measurements import Measurements, read_measurements
from outrider.analysis.planning import Plan, plan
from outrider.analysis.scaling import LogFit
from outrider.core.errors import OptionError

SIZES = (1e4, 3e4, 1e5, 3e5)
DEPTHS = (1, 2, 4, 8)
WIDTHS = {1: 1.6, 3: 2.2, 7: 2.6, 15: 2.8}


def verify_seconds(width: int, batch: int) -> float:
    """Weights are read once; each row then computes."""
    return 1e-2 + 2e-4 * batch * (1 + width)


def measured(**changes: Any) -> Measurements:
    found: dict[str, Any] = {
        "data": [(d, 0.6 + 0.15 * math.log(d)) for d in SIZES],
        "depth": [(n, 2.3 + 0.2 * math.log(n)) for n in DEPTHS],
        "width": WIDTHS,
        "draft": {(n, None, None): 4e-4 * n for n in DEPTHS},
        "verify": {(w, b): verify_seconds(w, b) for w in (0, *WIDTHS) for b in (1, 4, 16, 64, 256)},
    }
    return Measurements(**(found | changes))


def best_by_hand(measurements: Measurements, batch: int) -> float:
    """The largest tokens a second, by trying all combinations."""
    speeds = [1 / measurements.verify[0, batch]]
    for width, tau in WIDTHS.items():
        for layers in DEPTHS:
            for size in SIZES:
                full = 2.3 + 0.2 * math.log(layers) + 0.15 * math.log(size / SIZES[-1])
                gain = (full - 1) * (tau - 1) / (WIDTHS[15] - 1)
                seconds = measurements.draft[layers, None, None] + measurements.verify[width, batch]
                speeds.append((1 + gain) / seconds)
    return max(speeds)


def widths(found: Plan) -> list[int]:
    return [choice.width for choice in found.choices]


def test_the_fit_is_that_of_least_squares() -> None:
    fit = LogFit.fitted("tokens", [(d, 0.6 + 0.15 * math.log(d)) for d in SIZES])
    assert fit.intercept == pytest.approx(0.6) and fit.slope == pytest.approx(0.15)
    assert fit.r_squared == pytest.approx(1.0)
    assert fit.tau(1e5) == pytest.approx(0.6 + 0.15 * math.log(1e5))
    # by hand: logs 0, 1, 2, 3 and tau 1, 3, 2, 4 have slope 0.8, mean 2.5, residual 1.8 of 5
    noisy = LogFit.fitted("tokens", [(math.e**k, t) for k, t in enumerate((1.0, 3.0, 2.0, 4.0))])
    assert noisy.slope == pytest.approx(0.8) and noisy.intercept == pytest.approx(1.3)
    assert noisy.r_squared == pytest.approx(1 - 1.8 / 5)


def test_few_points_and_numbers_far_away_are_refused() -> None:
    points = [(d, 2.0 + 0.1 * k) for k, d in enumerate(SIZES)]
    with pytest.raises(OptionError, match="at least 4 different"):
        LogFit.fitted("tokens", [*points[:3], points[0]])
    fit = LogFit.fitted("tokens", points)
    assert fit.tau(4 * SIZES[-1]) > fit.tau(SIZES[-1])
    for far in (4.01 * SIZES[-1], SIZES[0] / 4.01, math.nan, math.inf):
        with pytest.raises(OptionError, match="too far from the measured"):
            fit.tau(far)
    for wrong in ((0.0, 2.0), (1e3, 0.9), (math.nan, 2.0), (1e3, math.nan)):
        with pytest.raises(OptionError, match="a measurement by tokens"):
            LogFit.fitted("tokens", [*points, wrong])


def test_the_plan_is_the_fastest_combination() -> None:
    found = plan(measured())
    for choice in found.choices:
        assert choice.speed / choice.batch == pytest.approx(best_by_hand(measured(), choice.batch))
    assert found.by_tokens.slope > 0 and found.by_layers.slope > 0 and not found.warnings


def test_the_width_does_not_grow_with_the_batch_and_may_be_0() -> None:
    found = plan(measured())
    assert widths(found) == sorted(widths(found), reverse=True)
    assert widths(found)[0] > 0 and widths(found)[-1] == 0
    last = found.choices[-1]
    assert last.tau == 1.0 and last.speedup == 1.0 and last.layers is None


def test_costs_decide_about_layers() -> None:
    free = plan(measured(draft={(n, None, None): 1e-9 for n in DEPTHS}))
    assert free.choices[0].layers == 8
    dear = plan(measured(draft={(n, None, None): 2e-3 * n for n in DEPTHS}))
    assert dear.choices[0].layers == 1
    # seconds of one width and batch come before those of all
    exact = measured(draft={(1, None, None): 1e-9, (1, 3, 1): 1.0, (1, None, 1): 1e-3})
    seconds = plan(exact, layers=[1]).choices[0].seconds
    assert seconds == pytest.approx(1e-3 + verify_seconds(plan(exact).choices[0].width, 1))


def test_doubts_are_reported() -> None:
    found = plan(measured(data=[(d, 3.0 - 0.1 * k) for k, d in enumerate(SIZES)]))
    assert "do not help" in found.warnings[0]
    noisy = plan(measured(depth=list(zip(DEPTHS, (2.0, 3.0, 1.5, 2.6), strict=True))))
    assert any("of the variance only" in warning for warning in noisy.warnings)
    strange = {(0, 1): 1e-2, (3, 1): 1.0, (0, 2): 1e-2, (3, 2): 1e-2}
    assert any("contradict" in warning for warning in plan(measured(verify=strange)).warnings)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"verify": {}}, "no seconds of the target"),
        ({"verify": {(3, 2): 0.1}}, "width 0.* at batch 2"),
        ({"verify": {(0, 2): 0.1}}, "no draft can be priced at batch 2"),
        ({"draft": {}}, "no draft can be priced"),
    ],
)
def test_missing_measurements_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        plan(measured(**changes))


def test_more_training_than_was_measured() -> None:
    best = plan(measured(), tokens=[1.2e6]).choices[0]
    assert best.tokens == 1.2e6 and best.tau > plan(measured()).choices[0].tau
    with pytest.raises(OptionError, match="too far"):
        plan(measured(), tokens=[1.3e6])


def test_files(tmp_path: Path) -> None:
    as_json, as_csv = tmp_path / "m.json", tmp_path / "m.csv"
    records: list[dict[str, Any]] = [
        {"kind": "data", "tokens": 1000, "tau": 1.5},
        {"kind": "width", "width": 3, "tau": 2},
        {"kind": "draft", "layers": 1, "seconds": 0.001},
        {"kind": "verify", "width": 0, "batch": 2, "seconds": 0.01},
    ]
    as_json.write_text(json.dumps(records))
    names = ("kind", "tokens", "layers", "width", "batch", "tau", "seconds")
    rows = [",".join(str(one.get(name, "")) for name in names) for one in records]
    as_csv.write_text("\n".join([",".join(names), *rows]))
    found = read_measurements(as_json)
    assert found == read_measurements(as_csv)
    assert found.draft == {(1, None, None): 0.001} and found.verify == {(0, 2): 0.01}
    for text, problem in {
        "{": "neither JSON nor CSV",
        "{}": "no list of objects",
        '[{"kind": "dat"}]': "kind 'dat'",
        '[{"kind": "verify", "width": 0, "batch": 1, "seconds": 0}]': "seconds 0",
        '[{"kind": "depth", "layers": 1.5, "tau": 2}]': "layers 1.5",
        '[{"kind": "data", "tokens": true, "tau": 2}]': "tokens True",
        '[{"kind": "data", "tokens": 5}]': "tau None",
    }.items():
        as_json.write_text(text)
        with pytest.raises(OptionError, match=problem):
            read_measurements(as_json)
    with pytest.raises(OptionError, match="cannot be read"):
        read_measurements(tmp_path / "none.json")
