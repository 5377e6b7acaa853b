"""The promises of continuous speculative decoding (arXiv 2411.11925), for single numbers."""

import math

import pytest
import torch

from outrider.diffusion.continuous.cspd import CSpD
from outrider.diffusion.continuous.noise import SequenceNoise
from outrider.diffusion.continuous.rules import ExactRatio, Published, accept
from outrider.diffusion.continuous.scalar import ScalarModel
from tests.diffusion.continuous.setups import (
    DRAFT,
    TARGET,
    acceptance,
    drafted,
    normal,
    numbers,
    written,
)

pytestmark = pytest.mark.method("cspd")
RUNS = 4000


def overlap(p: tuple[float, float], q: tuple[float, float]) -> float:
    """The integral of min(p, q)."""
    grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64)

    def density(mean: float, std: float) -> torch.Tensor:
        return torch.exp(-0.5 * ((grid - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    return float(torch.trapezoid(torch.minimum(density(*p), density(*q)), grid))


def test_acceptance_is_the_integral_of_the_smaller_density_and_tries_are_one_by_distance() -> None:
    """From N(0.7, 1.3) to N(0, 1), where 1.3 is a standard deviation: 0.741, and 3.86 tries."""
    expected = overlap((0.0, 1.0), (0.7, 1.3))
    assert expected == pytest.approx(0.741, abs=5e-4)
    assert 1 / (1 - expected) == pytest.approx(3.86, abs=5e-3)
    assert overlap((0.0, 1.0), (0.7, math.sqrt(1.3))) == pytest.approx(0.739, abs=5e-4)
    noise = SequenceNoise(5, range(RUNS), 1, 1, 1)
    q, p = normal(0.7, 1.3, (RUNS, 1)), normal(0.0, 1.0, (RUNS, 2))
    verdict = accept(ExactRatio(), drafted(q, noise), p, noise, torch.zeros(RUNS, dtype=torch.long))
    share = float(verdict.accepted.double().mean())
    assert abs(share - expected) < 3.5 * math.sqrt(expected * (1 - expected) / RUNS)
    rejected = int(verdict.rejected.sum())
    assert rejected == RUNS - int(verdict.accepted.sum())
    tries = float(verdict.tries.sum()) / rejected
    assert abs(tries - 3.86) < 3.5 * math.sqrt(expected) / (1 - expected) / math.sqrt(rejected)
    # What is kept or corrected has the density of the target.
    final = torch.where(
        verdict.rejected[:, None], verdict.next_values, drafted(q, noise).values[:, 0]
    )[:, 0]
    assert abs(float(final.mean())) < 3.5 / math.sqrt(RUNS)
    assert abs(float(final.std()) - 1) < 3.5 / math.sqrt(2 * RUNS)


@pytest.mark.parametrize("rule", [ExactRatio(), Published()])
def test_equal_densities_are_always_accepted(rule: ExactRatio | Published) -> None:
    noise = SequenceNoise(1, range(200), 6, 1, 3)
    same = normal(0.4, 0.2, (200, 6), 3)
    draft = drafted(same[:, :5], noise)
    verdict = accept(rule, draft, same, noise, torch.zeros(200, dtype=torch.long))
    assert verdict.accepted.tolist() == [5] * 200 and not verdict.tries.any()


def test_densities_are_compared_in_logarithms() -> None:
    """At a distance of 1e6 standard deviations both densities are 0 as numbers."""
    p, q = normal(1e6, 1.0, (1, 2)), normal(0.0, 1.0, (1, 1))
    noise = SequenceNoise(1, [0], 2, 1, 1)
    draft = drafted(q, noise)
    assert float(draft.densities.log_density(draft.values)) > -20
    ratios = ExactRatio().log_ratios(draft, p[:, :1])
    assert bool(ratios.isfinite().all()) and float(ratios) < -1e11
    verdict = accept(ExactRatio(), draft, p, noise, torch.zeros(1, dtype=torch.long))
    assert int(verdict.tries) == 1 and abs(float(verdict.next_values) - 1e6) < 6
    near = ExactRatio().log_ratios(drafted(p[:, :1], noise), p[:, :1])
    assert float(near) == 0.0
    narrow, wide = normal(0.0, 1e-12, (1, 1)), normal(0.0, 1e12, (1, 1))
    assert float(ExactRatio().log_ratios(drafted(narrow, noise), wide)) < -50


def test_shared_noise_raises_the_acceptance() -> None:
    apart = acceptance(written(CSpD(prefill=0.0, length=2, shared=False), 500, 1))
    together = acceptance(written(CSpD(prefill=0.0, length=2), 500, 1))
    assert together > apart + 0.3
    equal = written(CSpD(prefill=0.0, length=2), 50, 1, draft=TARGET)
    assert acceptance(equal) == 1.0


def test_exact_sequences_have_mean_and_deviation_of_the_target() -> None:
    """With another seed than the target's own: equal noise makes sequences alike."""
    own = numbers(written(CSpD(), RUNS, 11, draft=None))
    found = numbers(written(CSpD(prefill=0.0, length=2), RUNS, 12))
    errors = (own.var(0) / RUNS + found.var(0) / RUNS).sqrt()
    assert ((found.mean(0) - own.mean(0)).abs() < 3.5 * errors).all()
    assert ((found.std(0) / own.std(0) - 1).abs() < 3.5 / math.sqrt(RUNS)).all()


def test_the_published_rule_accepts_nearly_all_and_shifts_the_mean() -> None:
    own = numbers(written(CSpD(mode="published"), RUNS, 11, draft=None))
    found = written(CSpD(mode="published", prefill=0.0, length=2), RUNS, 12)
    assert acceptance(found) > 0.95
    moved = (numbers(found).mean(0) - own.mean(0)) / (own.std(0) / math.sqrt(RUNS))
    assert float(moved[0]) > 8  # towards the draft model, whose mean is higher
    alone = numbers(written(CSpD(mode="published"), RUNS, 13, draft=None, target=DRAFT))
    assert float(alone.mean(0)[0]) > float(own.mean(0)[0]) + 0.15


def test_the_published_ratio_has_sigma_and_divides_scores_by_42() -> None:
    p, q = normal(1.0, 2.0, (1, 1), 3), normal(0.5, 1.5, (1, 1), 3)
    noise = SequenceNoise(4, [0], 1, 1, 3)
    draft = drafted(q, noise)
    x = draft.values[0, 0]
    sigma = (2.0 / 1.5) ** 3
    scores = ((x - 1.0) / 2.0 / 42) ** 2 - ((x - 0.5) / 1.5 / 42) ** 2
    expected = sigma * float(torch.exp(-0.5 * scores.sum())) * (1.5 / 2.0) ** 3
    assert float(Published().log_ratios(draft, p)) == pytest.approx(math.log(expected))
    plain = Published(temperature=1.0).log_ratios(draft, p) - math.log(sigma)
    assert float(plain) == pytest.approx(float(ExactRatio().log_ratios(draft, p)))


def test_a_single_normal_density_is_drawn_as_it_is() -> None:
    """A value is then linear in all noise: the sum of the squared factors is s^2 + least^2, up to
    the first noise, which is large."""
    one = ScalarModel(weights=(1.0,), means=(0.5,), stds=(0.6,), length=1, least=0.3, steps=6)
    noise = torch.eye(7, 6, dtype=torch.float64)[..., None]  # the last row has none
    found = one.denoise(torch.zeros(7, 1, dtype=torch.float64), noise)
    factors = found.mean[:6] - found.mean[6]
    assert float(found.mean[6]) == pytest.approx(0.5, abs=0.01)
    assert float((factors**2).sum() + found.std[6] ** 2) == pytest.approx(0.36 + 0.09, rel=2e-3)
    drawn = numbers(written(CSpD(), 1000, 3, draft=None, target=one))[:, 0]
    assert float(drawn.std()) == pytest.approx(math.hypot(0.6, 0.3), rel=0.08)
