"""Sequences of mode `exact` have the target's joint distribution, and broken rules do not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
import torch

from outrider.diffusion.continuous import cspd, rounds
from outrider.diffusion.continuous.cspd import CSpD
from outrider.diffusion.continuous.noise import SequenceNoise
from outrider.diffusion.continuous.residual import Correction
from outrider.diffusion.continuous.rules import ExactRatio
from outrider.diffusion.continuous.values import Densities, ValueDraft
from tests.diffusion.continuous.setups import DRAFT, TARGET, distances, numbers, written

pytestmark = pytest.mark.method("cspd")
RUNS = 4000


@pytest.fixture(scope="module")
def own() -> torch.Tensor:
    return numbers(written(CSpD(), RUNS, 21, draft=None))


@pytest.mark.parametrize(
    "method",
    [
        CSpD(prefill=0.0, length=2),
        CSpD(prefill=0.0, length=9),
        CSpD(prefill=0.34, length=2),
        CSpD(prefill=0.0, length=2, shared=False),
    ],
    ids=str,
)
def test_exact(method: CSpD, own: torch.Tensor) -> None:
    found = written(method, RUNS, 22)
    assert max(distances(own, numbers(found))) < 1
    assert not any(one.counts.bounded for one in found)
    assert sum(one.counts.rejected for one in found) > RUNS // 10


def test_the_test_tells_the_models_apart(own: torch.Tensor) -> None:
    assert max(distances(own, numbers(written(CSpD(), RUNS, 22, draft=None, target=DRAFT)))) > 2


@dataclass(frozen=True)
class NoResidual(ExactRatio):
    """Corrections are draws of the target."""

    def correct(
        self, target: Densities, draft: Densities, noise: SequenceNoise, image: int, place: int
    ) -> Correction:
        return Correction(target.drawn(noise.tries(image, place).block((1,))), 1)


@dataclass(frozen=True)
class Inverted(ExactRatio):
    def log_ratios(self, draft: ValueDraft, target: Densities) -> torch.Tensor:
        return -super().log_ratios(draft, target)


@dataclass(frozen=True)
class WithSigma(ExactRatio):
    """The factor of the published rule in an otherwise exact one."""

    def log_ratios(self, draft: ValueDraft, target: Densities) -> torch.Tensor:
        sigma = target.log_spread - draft.densities.log_spread
        return super().log_ratios(draft, target) + sigma


@dataclass(frozen=True)
class SameNoise(ExactRatio):
    """Corrections read the noise of the draft."""

    def correct(
        self, target: Densities, draft: Densities, noise: SequenceNoise, image: int, place: int
    ) -> Correction:
        return Correction(target.drawn(noise.draft[image, place, -1]), 1)


@pytest.mark.parametrize("rule", [NoResidual, Inverted, WithSigma, SameNoise])
def test_a_broken_rule_shows(
    rule: type[ExactRatio], own: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cspd, "RULES", {"exact": rule})
    assert max(distances(own, numbers(written(CSpD(prefill=0.0, length=2), RUNS, 22)))) > 1


Broken = Callable[..., Densities]


def _false_densities(
    verify: Broken, target: object, sequences: object, draft: ValueDraft
) -> Densities:
    """The target's densities, moved by one position."""
    found = verify(target, sequences, draft)
    return Densities(
        found.mean.roll(1, dims=1), found.std.roll(1, dims=1), found.log_spread.roll(1, dims=1)
    )


def test_densities_of_another_position_show(
    own: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = rounds.verify
    monkeypatch.setattr(rounds, "verify", lambda *given: _false_densities(verify, *given))
    assert max(distances(own, numbers(written(CSpD(prefill=0.0, length=2), RUNS, 22)))) > 1


def test_a_draft_model_that_misreports_its_densities_shows(
    own: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose = rounds.propose

    def lying(*given: object) -> ValueDraft:
        draft = propose(*given)  # type: ignore[arg-type]
        q = draft.densities
        return replace(draft, densities=Densities(q.mean - 0.3, q.std, q.log_spread))

    monkeypatch.setattr(rounds, "propose", lying)
    assert max(distances(own, numbers(written(CSpD(prefill=0.0, length=2), RUNS, 22)))) > 1


def test_every_draft_model_leaves_the_distribution(own: torch.Tensor) -> None:
    """Also one without the target's support, and one that is equal to the target."""
    others: Mapping[str, object] = {"means": (5.0, 6.0), "stds": (0.1, 0.1), "weights": (0.5, 0.5)}
    far = replace(TARGET, **others)
    for draft in (far, TARGET):
        found = numbers(written(CSpD(prefill=0.0, length=2), RUNS, 22, draft=draft))
        assert max(distances(own, found)) < 1
