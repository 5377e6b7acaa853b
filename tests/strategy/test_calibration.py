"""Thresholds by their effect, and the refusal to use them elsewhere."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.models.tabular import TabularModel
from outrider.sampling import SamplingParams
from outrider.strategy.calibration import (
    Calibration,
    CalibrationKey,
    ModelId,
    Threshold,
    find_calibration,
    load_calibrations,
    quantiles,
    save_calibrations,
)

SUBJECT = CalibrationKey(
    divergence="js",
    proposer=ModelId("small", "aa"),
    verifier=ModelId("large", "bb"),
    warps=SamplingParams(temperature=0.8).warps,
)


def calibration(key: CalibrationKey = SUBJECT, scale: float = 1.0) -> Calibration:
    return Calibration.of(key, scale * torch.arange(1, 201, dtype=torch.float64) / 200)


@given(
    values=st.lists(st.floats(0, 10) | st.just(math.inf), min_size=1, max_size=300),
    percent=st.integers(1, 100),
)
def test_a_whole_percent_lets_that_share_pass_and_no_more(values: list, percent: int) -> None:
    threshold = Calibration.of(SUBJECT, torch.tensor(values)).threshold(percent / 100)
    stored = torch.tensor(values).double()
    need = math.ceil(percent * len(values) / 100)
    assert int((stored <= threshold).sum()) >= need
    assert int((stored < threshold).sum()) < need


def test_nan_is_within_no_threshold() -> None:
    values = torch.tensor([0.1, math.nan, 0.2, 0.3])
    made = Calibration.of(SUBJECT, values)
    assert made.positions == 4 and made.threshold(0.75) == pytest.approx(0.3)
    assert made.threshold(1.0) == math.inf


def test_thresholds_grow_with_the_share() -> None:
    made = calibration()
    rates = [0.001, 0.01, 0.305, 0.31, 0.8, 0.999, 1.0]
    found = [made.threshold(rate) for rate in rates]
    assert found == sorted(found) and found[4] == pytest.approx(0.8)
    assert found[2] == pytest.approx(0.305)
    for rate in (0.0, -0.1, 1.01, math.nan):
        with pytest.raises(OptionError, match="share to accept"):
            made.threshold(rate)
    assert len(quantiles(torch.tensor([1.0]))) == 101


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.4, Threshold(value=0.4)),
        (-1, Threshold(value=-1.0)),
        ("0.4", Threshold(value=0.4)),
        ("inf", Threshold(value=math.inf)),
        ("80%", Threshold(accept_rate=0.8)),
        (" 12.5 % ", Threshold(accept_rate=0.125)),
        ("accept=0.8", Threshold(accept_rate=0.8)),
        ("accept=80%", Threshold(accept_rate=0.8)),
    ],
)
def test_thresholds_as_people_write_them(given: float | str, expected: Threshold) -> None:
    assert Threshold.parse(given) == expected


@pytest.mark.parametrize("given", ["", "much", "accept=", "accept=1.5", "0%", "120%", "nan", "%"])
def test_what_is_no_threshold_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(OptionError) as caught:
        Threshold.parse(given)
    assert "\n" not in str(caught.value)


def test_a_number_needs_no_calibration() -> None:
    assert Threshold.parse(0.3).resolve([], SUBJECT) == 0.3
    assert Threshold.parse("80%").resolve([calibration()], SUBJECT) == pytest.approx(0.8)


def test_the_pair_counts_by_its_weights_and_warps_by_their_effect() -> None:
    renamed = replace(SUBJECT, proposer=ModelId("other name", "aa"))
    assert find_calibration([calibration()], renamed) == calibration()
    greedy = replace(SUBJECT, warps={**SUBJECT.warps, "temperature": 0.0, "top_p": 0.9})
    same = replace(SUBJECT, warps={**SUBJECT.warps, "temperature": 0.0})
    assert find_calibration([calibration(greedy)], same).key == greedy


OTHERS = {
    "divergence": ("tv", "divergence js, not tv"),
    "proposer": (ModelId("tiny", "cc"), r"proposer small \(aa\), not tiny \(cc\)"),
    "verifier": (ModelId("large", "b2"), r"verifier large \(bb\), not large \(b2\)"),
    "warps": (SamplingParams(temperature=0.5).warps, "temperature=0.8.*temperature=0.5"),
}


@pytest.mark.parametrize("part", OTHERS)
def test_another_subject_is_refused(part: str) -> None:
    other, words = OTHERS[part]
    wanted = replace(SUBJECT, **{part: other})
    far = calibration(replace(wanted, divergence="kl_dv", proposer=ModelId("x", "y"), warps={}))
    with pytest.raises(OptionError, match=words) as caught:
        find_calibration([far, calibration()], wanted)
    assert "outrider calibrate" in str(caught.value)
    assert "proposer small" in str(caught.value) or part != "proposer"
    with pytest.raises(OptionError, match="no calibration of"):
        find_calibration([], wanted)


def test_a_file_holds_several_and_saving_again_replaces(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    other = calibration(replace(SUBJECT, divergence="tv"))
    calibration().save(path)
    other.save(path)
    calibration(scale=2.0).save(path)
    loaded = load_calibrations(path)
    assert sorted(c.key.divergence for c in loaded) == ["js", "tv"]
    assert find_calibration(loaded, SUBJECT) == calibration(scale=2.0)
    assert [p.name for p in tmp_path.iterdir()] == ["thresholds.json"]


def test_infinite_quantiles_survive_strict_json(tmp_path: Path) -> None:
    made = Calibration.of(SUBJECT, torch.tensor([0.1, math.inf]))
    path = tmp_path / "c.json"
    save_calibrations(path, [made])
    assert "Infinity" not in path.read_text()
    assert load_calibrations(path) == [made]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"calibrations": [{}]}', '{"calibrations": 3}', '{"calibrations": ["a"]}'],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"c\.json is not a calibration file.*calibrate"):
        load_calibrations(path)


def test_unordered_quantiles_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"missing\.json cannot be read: No such file"):
        load_calibrations(tmp_path / "missing.json")
    path = tmp_path / "c.json"
    save_calibrations(path, [calibration()])
    record = json.loads(path.read_text())
    record["calibrations"][0]["quantiles"].reverse()
    path.write_text(json.dumps(record))
    with pytest.raises(OptionError, match="quantiles"):
        load_calibrations(path)


def test_models_are_known_by_name_and_fingerprint() -> None:
    model = TabularModel.random(name="table")
    assert ModelId.of(model) == ModelId("table", model.info.fingerprint)
