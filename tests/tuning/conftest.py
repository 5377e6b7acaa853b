"""One small tuning of the shipped models, shared by tests; its clock counts calls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import config

from outrider.bench.models import OpenModels, find_tiers, open_models
from outrider.bench.settings import Models
from outrider.protocols import LanguageModel
from outrider.strategy import Profile
from outrider.tuning.run import Tuning
from outrider.tuning.settings import TuneSettings
from outrider.tuning.space import Space, space_of

SAMPLING = {"max_new_tokens": 12}


@dataclass
class Ticks:
    """A clock that advances with each call."""

    step: float = 0.5
    now: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def curve(model: LanguageModel, widths: Sequence[int], limit: float) -> Mapping[int, float]:
    """Times of forwards that no clock has measured."""
    return {n: 1e-3 * (1.0 + 0.05 * n) for n in widths}


def tuning(folder: Path, **more: Any) -> Tuning:
    """A tuning of `tiny` without its draft models, in a few seconds."""
    settings = TuneSettings(
        models=Models(target="tiny", qualifier="none", draft="none", dtype="float32"),
        prompts=2,
        sampling=SAMPLING,
        budget=20.0,
        force=True,
    )
    given: dict[str, Any] = {"settings": settings, "folder": folder, "scratch": folder / "models"}
    return Tuning(**{**given, "clock": Ticks(), "measure": curve, **more})


@pytest.fixture(scope="package", autouse=True)
def all_unchecked() -> Iterator[None]:
    """Shapes are not checked (what runs here is checked in the tests of models and drafters), and
    few drafters are compared."""
    config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outrider.tuning.run.space_of", few)
        yield
    config.update("jaxtyping_disable", False)


def few(opened: OpenModels, more: Sequence[str] = ()) -> Space:
    """The arms of three drafters, and the automatic choice."""
    found = space_of(opened, more)
    families = ("lookup", "recycling", "auto", *more)
    return Space([arm for arm in found.arms if arm.family in families], found.skipped)


@pytest.fixture(scope="package")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tuning."""
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="package")
def finished(work: Path) -> tuple[Profile, Tuning]:
    """A finished tuning with its profile."""
    own = tuning(work, command="outrider tune --target tiny")
    return own.run(), own


@pytest.fixture(scope="package")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenModels:
    """The target and the draft model of `tiny`."""
    settings = Models(target="tiny", qualifier="none", dtype="float32")
    return open_models(settings, find_tiers(settings, tmp_path_factory.mktemp("scratch")))
