"""Draws from the residual max(p - q, 0), normalised, of two normal densities p and q."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.diffusion.continuous.noise import TryNoise
from outrider.diffusion.continuous.values import Densities

_BLOCK = 32
"""Values of one vectorised step."""


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """A draw from the residual.

    Attributes:
        value: the value.
        tries: values that were tried.
        enveloped: whether the second proposal was needed.
        bounded: whether no try was kept, so that `value` is merely the target's.
    """

    value: Float[Tensor, " size"]
    tries: int
    enveloped: bool = False
    bounded: bool = False


def residual_draw(
    p: Densities, q: Densities, noise: TryNoise, plain: int = 64, most: int = 10_000
) -> Correction:
    """Draw from max(p - q, 0), normalised, in a bounded number of tries.

    Values y of p are kept with probability max(0, 1 - q(y) / p(y)). This needs 1 / TV(p, q) tries
    in the mean, which has no bound as the densities approach each other. After `plain` tries,
    values come from a second proposal: with t = log(p / q), which is a polynomial in the noise z of
    y, the density p(y) * (sum_i |a_i| z_i^2 + |b_i z_i| + |c|) bounds p (1 - exp(-t)), since
    1 - exp(-t) <= t. It shrinks with t, so that the mean number of tries stays bounded where p and
    q are close; both ways have the same distribution. (For 16 numbers it is about 10 to 20.)

    Args:
        p: density of the target, one row.
        q: density of the draft, one row.
        noise: noise of the tries.
        plain: tries of the first kind.
        most: tries of the second kind; if none is kept, which `bounded` says, the value is the last
            draw of p.
    """
    tried = 0
    while tried < plain:
        z = noise.block((min(_BLOCK, plain - tried), p.mean.shape[-1]))
        kept = -torch.expm1((-_log_ratio(p, q, z)).clamp(max=0.0))
        found = _first(noise.uniforms(len(z)) < kept)
        if found is not None:
            return Correction(p.drawn(z[found]), tried + found + 1)
        tried += len(z)
    a, b, c = _polynomial(p, q)
    while tried < plain + most:
        z = _proposed(a, b, c, noise)
        t = _log_ratio(p, q, z)
        bound = (a.abs() * z**2 + (b * z).abs()).sum(-1) + c.abs()
        found = _first(noise.uniforms(len(z)) * bound < -torch.expm1(-t.clamp(min=0.0)))
        if found is not None:
            return Correction(p.drawn(z[found]), tried + found + 1, enveloped=True)
        tried += len(z)
    value = p.drawn(noise.block((p.mean.shape[-1],)))
    return Correction(value, tried, enveloped=True, bounded=True)


def published_draw(p: Densities, q: Densities, log_sigma: float, noise: TryNoise) -> Correction:
    """Draw as the released code of CSpD does: at most 100 values of p, kept with probability
    max(0, 1 - q / (Sigma p)).

    Where no try is kept, the released code returns zeros. Here it is the last try, which `bounded`
    says.
    """
    z = noise.block((PUBLISHED_TRIES, p.mean.shape[-1]))
    kept = -torch.expm1((-_log_ratio(p, q, z) - log_sigma).clamp(max=0.0))
    found = _first(noise.uniforms(len(z)) < kept)
    if found is None:
        return Correction(p.drawn(z[-1]), PUBLISHED_TRIES, bounded=True)
    return Correction(p.drawn(z[found]), found + 1)


PUBLISHED_TRIES = 100


def _first(kept: Tensor) -> int | None:
    places = kept.nonzero()
    return int(places[0]) if len(places) else None


def _polynomial(p: Densities, q: Densities) -> tuple[Tensor, Tensor, Tensor]:
    """Return a, b, c with log(p / q) = sum_i (a_i z_i^2 + b_i z_i) + c at y = mean_p + std_p z."""
    ratio, shift = p.std / q.std, (p.mean - q.mean) / q.std
    rest = (0.5 * shift**2 - ratio.log()).sum()
    return 0.5 * (ratio - 1) * (ratio + 1), ratio * shift, rest


def _log_ratio(p: Densities, q: Densities, z: Tensor) -> Tensor:
    """Return log(p / q) of values that are given by their noise; no density underflows."""
    a, b, c = _polynomial(p, q)
    return (a * z**2 + b * z).sum(-1) + c


def _proposed(a: Tensor, b: Tensor, c: Tensor, noise: TryNoise) -> Tensor:
    """Return noise with the density of the second proposal: one number of each row has the density
    of z^2 or of |z| times the normal one, or none has."""
    size = len(a)
    masses = torch.cat([a.abs(), b.abs() * math.sqrt(2 / math.pi), c.abs().view(1)])
    masses = masses / masses.sum() if float(masses.sum()) > 0 else torch.ones_like(masses)
    ends = masses.cumsum(0) / masses.sum()
    parts = torch.bucketize(noise.uniforms(_BLOCK), ends).clamp(max=2 * size)
    z = noise.block((_BLOCK, size))
    three = noise.block((_BLOCK, 3))
    squared, linear = (three**2).sum(-1).sqrt(), (three[:, 1:] ** 2).sum(-1).sqrt()
    sign = noise.block((_BLOCK,)).sign()
    rows = torch.arange(_BLOCK)
    first, second = parts < size, (parts >= size) & (parts < 2 * size)
    z[rows[first], parts[first]] = (sign * squared)[first]
    z[rows[second], parts[second] - size] = (sign * linear)[second]
    return z
