"""`outrider analyze scaling`: from a file of measurements to a fit and a plan."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Measurements in which drafts pay at batch 1 and not at batch 64."""
    found: list[dict[str, Any]] = [
        {"kind": "data", "tokens": d, "tau": 1 + 0.1 * math.log(d)} for d in (1e3, 1e4, 1e5, 1e6)
    ]
    for n in (1, 2, 4, 8):
        found.append({"kind": "depth", "layers": n, "tau": 2.3 + 0.1 * math.log(n)})
        found.append({"kind": "draft", "layers": n, "seconds": 1e-3 * n})
    found += [{"kind": "width", "width": w, "tau": t} for w, t in ((1, 1.6), (3, 2.3))]
    found += [
        {"kind": "verify", "width": w, "batch": b, "seconds": 1e-2 + 1e-3 * b * (1 + w)}
        for w in (0, 1, 3)
        for b in (1, 64)
    ]
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(found))
    return file


def test_the_fit_the_plan_and_why(records: Path, run: Run) -> None:
    told = run("analyze", "scaling", records, "--json").json
    assert [round(fit["b"], 6) for fit in told["fits"]] == [0.1, 0.1]
    assert [round(fit["r_squared"], 6) for fit in told["fits"]] == [1.0, 1.0]
    first, last = told["plan"]
    assert (first["batch"], first["width"], first["layers"], first["tokens"]) == (1, 3, 1, 1e6)
    assert first["speedup"] > 1.4 and "undrafted" in first["why"]
    assert (last["width"], last["layers"], last["speedup"]) == (0, None, 1.0)
    outcome = run("analyze", "scaling", records)
    assert outcome.code == 0 and "every draft costs more than it brings" in outcome.out
    assert "4 points, 1000 to 1e+06" in outcome.out


def test_wrong_input_is_one_line(records: Path, run: Run) -> None:
    for words, problem in (
        ((records, "--tokens", "5e6"), "too far from the measured"),
        ((records, "--layers", "99"), "too far"),
        ((records, "--layers", "3"), "no draft can be priced"),
        ((records.parent / "no.json",), "cannot be read"),
    ):
        outcome = run("analyze", "scaling", *words)
        assert outcome.code == 2 and problem in outcome.error
