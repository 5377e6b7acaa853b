"""Draws from the residual: both proposals, their bound, and densities of several numbers."""

import math

import pytest
import torch

from outrider.diffusion.continuous.noise import TryNoise
from outrider.diffusion.continuous.residual import _proposed, published_draw, residual_draw
from outrider.diffusion.continuous.values import Densities
from tests.diffusion.continuous.setups import normal

RUNS = 1500


def pair(size: int, difference: float) -> tuple[Densities, Densities]:
    source = torch.Generator().manual_seed(size)
    mean, std = torch.randn(2, size, generator=source, dtype=torch.float64)
    std = std.abs() + 0.5
    moved = difference * torch.randn(2, size, generator=source, dtype=torch.float64)
    spread = torch.zeros((), dtype=torch.float64)
    return (
        Densities(mean, std, spread),
        Densities(mean + moved[0], std * (1 + moved[1]).clamp(min=0.2), spread),
    )


def draws(p: Densities, q: Densities, plain: int) -> tuple[torch.Tensor, list[int]]:
    found = [residual_draw(p, q, TryNoise(3, i, plain), plain=plain) for i in range(RUNS)]
    assert not any(one.bounded for one in found)
    assert all(one.enveloped == (plain == 0) for one in found)
    return torch.stack([one.value for one in found]), [one.tries for one in found]


def weighted(p: Densities, q: Densities, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard error of z and z^2 of the residual, by weights of draws of p."""
    source = torch.Generator().manual_seed(0)
    z = torch.randn(400_000, features, generator=source, dtype=torch.float64)
    values = p.drawn(z)
    weight = -torch.expm1((q.log_density(values) - p.log_density(values)).clamp(max=0))
    both = torch.cat([z, z**2], dim=1)
    mean = (weight[:, None] * both).sum(0) / weight.sum()
    square = (weight[:, None] * (both - mean) ** 2).sum(0) / weight.sum()
    return mean, square.sqrt()


@pytest.mark.parametrize("plain", [1_000_000, 0], ids=["plain", "second"])
@pytest.mark.parametrize("size", [1, 4])
def test_moments_are_those_of_the_residual(size: int, plain: int) -> None:
    """Both proposals, by importance weights of an independent computation."""
    p, q = pair(size, 0.3)
    values, _ = draws(p, q, plain)
    z = (values - p.mean) / p.std
    found = torch.cat([z, z**2], dim=1).mean(0)
    mean, deviation = weighted(p, q, size)
    assert ((found - mean).abs() < 4 * deviation / math.sqrt(RUNS) + 0.02).all()


@pytest.mark.parametrize(("a", "b", "c"), [(0.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-0.5, 1.0, 0.2)])
def test_the_second_proposal_has_its_density(a: float, b: float, c: float) -> None:
    """Of a polynomial of one number among two: the mean of z^2, with moments 1, 2 and 3."""
    noise = TryNoise(8, 0, 0)
    parts = [torch.tensor(one, dtype=torch.float64) for one in ([a, 0.0], [b, 0.0], c)]
    squares = torch.cat([_proposed(*parts, noise) for _ in range(1000)]) ** 2
    masses = (abs(a), abs(b) * math.sqrt(2 / math.pi), abs(c))
    expected = (3 * masses[0] + 2 * masses[1] + masses[2]) / sum(masses)
    errors = squares.std(0) / math.sqrt(len(squares))
    assert abs(float(squares[:, 0].mean()) - expected) < 3.5 * float(errors[0])
    assert abs(float(squares[:, 1].mean()) - 1) < 3.5 * float(errors[1])


def test_the_second_proposal_does_not_need_more_tries_as_densities_approach() -> None:
    """The plain one needs 1 / TV tries: some 10^5 at a difference of 10^-5."""
    means = []
    for difference in (1e-2, 1e-5, 1e-9):
        p, q = pair(16, difference)
        tries = [residual_draw(p, q, TryNoise(1, i, 0), plain=0).tries for i in range(60)]
        means.append(sum(tries) / len(tries))
    assert max(means) < 40


def test_the_second_proposal_follows_after_the_plain_tries() -> None:
    p, q = pair(16, 1e-5)
    found = residual_draw(p, q, TryNoise(1, 0, 0))
    assert found.enveloped and found.tries > 64 and not found.bounded


def test_the_bound_is_said() -> None:
    """Equal densities have no residual."""
    p = normal(0.5, 1.0, (), 2)
    found = residual_draw(p, p, TryNoise(1, 0, 0), plain=40, most=100)
    assert found.bounded and found.tries >= 140
    assert bool(found.value.isfinite().all())
    published = published_draw(p, p, 0.0, TryNoise(1, 0, 0))
    assert published.bounded and published.tries == 100


def test_the_published_correction_divides_by_sigma() -> None:
    """With a large Sigma, nearly every try is kept; with a small one, hardly any."""
    p, q = normal(0.0, 1.0), normal(0.7, 1.3)
    tries = [
        sum(published_draw(p, q, sigma, TryNoise(1, i, 0)).tries for i in range(100)) / 100
        for sigma in (10.0, 0.0, -10.0)
    ]
    assert tries[0] < 1.1 < 3 < tries[1] < 5 < 100 == tries[2]
