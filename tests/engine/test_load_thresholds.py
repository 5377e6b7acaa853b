"""Thresholds as divergences and as shares of positions, looked up in a calibration."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.acceptance import Fuzzy
from outrider.core.errors import (
    OptionError,
)
from outrider.drafters import ModelDrafter, Qualified
from outrider.engine.load import load
from outrider.sampling import SamplingParams
from outrider.strategy import Strategy
from outrider.strategy.calibration import Calibration, CalibrationKey, ModelId, save_calibrations
from tests.engine.conftest import WINDOWS, Folders, Load


def calibrated(path: Path, verifier: Any, proposer: Any, top: float, **warps: float) -> Calibration:
    """Divergences spread evenly from 0 to `top`: "80%" is 0.8 top."""
    key = CalibrationKey(
        divergence="js",
        proposer=ModelId.of(proposer),
        verifier=ModelId.of(verifier),
        warps=SamplingParams(**warps).warps,  # pyright: ignore[reportArgumentType]
    )
    calibration = Calibration.of(key, torch.linspace(0, top, 1001, dtype=torch.float64))
    calibration.save(path)
    return calibration


@pytest.fixture
def models(loaded: Load) -> tuple[Any, Any, Any]:
    """Target, qualifier and draft model."""
    strategy = loaded(3).strategy
    assert isinstance(strategy.drafter, Qualified)
    inner = strategy.drafter.drafter
    assert isinstance(inner, ModelDrafter)
    return strategy.target, strategy.drafter.qualifier, inner.model


def thresholds(strategy: Strategy) -> list[float]:
    assert isinstance(strategy.rule, Fuzzy) and isinstance(strategy.drafter, Qualified)
    inner = strategy.drafter.rule
    return [strategy.rule.threshold, *([inner.threshold] if isinstance(inner, Fuzzy) else [])]


def test_a_share_is_looked_up(models: Any, tmp_path: Path) -> None:
    target, qualifier, draft = models
    file = tmp_path / "calibration.json"
    calibrated(file, target, qualifier, 0.5)
    options = {"qualifier": qualifier, "draft": draft, "calibration": file}
    for share in ("80%", "accept=0.8"):
        generator = load(target, mode="assisted", threshold_target=share, **options)
        assert thresholds(generator.strategy) == [pytest.approx(0.4, abs=1e-3)]
    assert generator.generate([97, 98], max_new_tokens=6).speculation.exactness == "lossy"


def test_both_shares(models: Any, tmp_path: Path) -> None:
    """Thresholds below the defaults: nothing may be warned of that was never asked for."""
    target, qualifier, draft = models
    file = tmp_path / "calibration.json"
    calibrated(file, target, qualifier, 0.1)
    calibrated(file, qualifier, draft, 0.05)
    options = {"qualifier": qualifier, "draft": draft, "calibration": str(file), "mode": "fuzzy"}
    generator = load(target, threshold_target="80%", threshold_qualifier="50%", **options)
    assert thresholds(generator.strategy) == pytest.approx([0.08, 0.025], abs=1e-3)
    generator = load(target, threshold_target="80%", threshold_qualifier=0.01, **options)
    assert thresholds(generator.strategy) == pytest.approx([0.08, 0.01], abs=1e-3)
    generator = load(target, threshold_target=0.6, threshold_qualifier="100%", **options)
    assert thresholds(generator.strategy) == pytest.approx([0.6, 0.05], abs=1e-3)
    calibrated(file, target, qualifier, 0.6)
    generator = load(target, threshold_target="100%", threshold_qualifier=0.5, **options)
    assert thresholds(generator.strategy) == pytest.approx([0.6, 0.5], abs=1e-3)


def test_a_calibration_is_for_its_warps(models: Any, tmp_path: Path) -> None:
    target, qualifier, draft = models
    file = tmp_path / "calibration.json"
    calibrated(file, target, qualifier, 0.5)
    calibrated(file, target, qualifier, 0.3, temperature=0.8)
    options = {"qualifier": qualifier, "draft": draft, "mode": "assisted"}
    generator = load(target, threshold_target="50%", calibration=file, **options)
    for temperature, expected in ((0.0, 0.25), (0.8, 0.15)):
        strategy = generator.strategy_for(SamplingParams(temperature=temperature))
        assert thresholds(strategy) == [pytest.approx(expected, abs=1e-3)]
    with pytest.raises(OptionError, match=r"calibration is for warps .*temperature=0\.7"):
        generator.generate([97], temperature=0.7, max_new_tokens=2)


def test_a_calibration_is_for_its_pair_and_divergence(models: Any, tmp_path: Path) -> None:
    target, qualifier, draft = models
    file = tmp_path / "calibration.json"
    calibrated(file, target, qualifier, 0.5)
    options = {"mode": "assisted", "threshold_target": "50%", "calibration": file}
    with pytest.raises(OptionError, match=r"is for proposer qualifier \(.*, not draft \("):
        load(target, draft=draft, **options).generate([97])
    with pytest.raises(OptionError, match="is for verifier"):
        load(draft, draft=qualifier, **options).generate([97])
    with pytest.raises(OptionError, match="is for divergence js, not tv"):
        load(target, qualifier=qualifier, draft=draft, divergence="tv", **options).generate([97])


def test_a_share_needs_a_calibration(models: Any, tmp_path: Path) -> None:
    target, qualifier, _ = models
    options: dict[str, Any] = {"draft": qualifier, "threshold_target": "80%"}
    for missing in (None, tmp_path / "missing.json"):
        with pytest.raises(OptionError, match="there is no calibration"):
            load(target, mode="assisted", calibration=missing, **options)
        load(target, mode="exact", calibration=missing, **options)
        load(target, mode="none", calibration=missing, **options)
    load(target, draft=qualifier, mode="assisted", threshold_qualifier="80%")
    damaged = tmp_path / "damaged.json"
    damaged.write_text("[]")
    with pytest.raises(OptionError, match="is not a calibration file"):
        load(target, mode="assisted", calibration=damaged, **options)


def test_a_family_brings_its_calibration(family: Path, loaded: Load) -> None:
    strategy = loaded(3).strategy
    assert isinstance(strategy.drafter, Qualified)
    calibration = calibrated(
        family / "calibration.json", strategy.target, strategy.drafter.qualifier, 0.5
    )
    save_calibrations(family / "calibration.json", [calibration])
    generator = load("toy", mode="assisted", threshold_target="60%")
    assert thresholds(generator.strategy) == [pytest.approx(0.3, abs=1e-3)]


def test_plain_thresholds_and_budgets(folders: Folders) -> None:
    options: dict[str, Any] = {"qualifier": folders.qualifier, "draft": folders.draft, **WINDOWS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator = load(folders.target, mode="fuzzy", **options)
        assert thresholds(generator.strategy) == [0.4, 0.3]
        generator = load(
            folders.target,
            mode="fuzzy",
            threshold_target="0.2",
            threshold_qualifier=0.1,
            max_changed=0.25,
            divergence="tv",
            **options,
        )
    rule = generator.strategy.rule
    assert thresholds(generator.strategy) == [0.2, 0.1]
    assert isinstance(rule, Fuzzy) and (rule.max_changed, rule.measure.name) == (0.25, "tv")
    result = generator.generate("once", max_new_tokens=16)
    assert sum(result.changed) <= 4
