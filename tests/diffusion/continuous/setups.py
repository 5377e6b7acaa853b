"""Densities, small models and a two-sample test for the tests of continuous values."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from outrider.diffusion.continuous.cspd import CSpD, Written
from outrider.diffusion.continuous.noise import SequenceNoise
from outrider.diffusion.continuous.patches.config import Grid, PatchShape
from outrider.diffusion.continuous.patches.model import PatchModel
from outrider.diffusion.continuous.scalar import ScalarModel
from outrider.diffusion.continuous.values import Densities, ValueDraft

TARGET = ScalarModel(weights=(0.6, 0.4), means=(-1.0, 1.2), stds=(0.3, 0.3), pull=0.4, length=3)
DRAFT = ScalarModel(weights=(0.5, 0.5), means=(-0.7, 1.4), stds=(0.15, 0.15), pull=0.3, length=3)
GRID = Grid(side=8, patch=4, steps=3)


def normal(mean: float, std: float, rows: tuple[int, ...] = (), size: int = 1) -> Densities:
    """Equal rows of a normal density."""
    shape = (*rows, size)
    spread = torch.full(rows, size * math.log(std), dtype=torch.float64)
    full = torch.full(shape, 1.0, dtype=torch.float64)
    return Densities(full * mean, full * std, spread)


def drafted(q: Densities, noise: SequenceNoise, done: int = 0) -> ValueDraft:
    """Drafts of the densities `[images, n]`, with the noise of the sequences."""
    count, most = q.mean.shape[:2]
    values = q.drawn(noise.draft[:, done : done + most, -1])
    return ValueDraft(values, q, torch.full((count,), most))


def model(seed: int, hidden: int = 16, grid: Grid = GRID) -> PatchModel:
    """A random model of patches whose output layers are not 0."""
    shape = PatchShape(hidden_size=hidden, layers=2, heads=2, head_width=16, head_blocks=2)
    made = PatchModel(grid, shape, seed)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in made.parameters():
            one.add_(0.1 * torch.randn(one.shape, generator=source))
    return made.eval()


def written(
    method: CSpD,
    count: int,
    seed: int,
    target: ScalarModel = TARGET,
    draft: ScalarModel | None = DRAFT,
) -> list[Written]:
    """Sequences in the order of their numbers."""
    found = method.write(target, draft, range(count), seed, batch=count)
    return sorted(found, key=lambda one: one.sample)


def numbers(sequences: list[Written]) -> Tensor:
    return torch.stack([one.values[:, 0] for one in sequences])


def acceptance(sequences: list[Written]) -> float:
    kept = sum(one.counts.accepted for one in sequences)
    return kept / (kept + sum(one.counts.rejected for one in sequences))


def distances(first: Tensor, second: Tensor) -> list[float]:
    """Kolmogorov-Smirnov distances, relative to the one that equal distributions exceed once in
    10,000, of each number and of sums and differences of neighbours."""

    def features(sequences: Tensor) -> list[np.ndarray]:
        rows = sequences.T
        pairs = [one for a, b in pairwise(rows) for one in (a + b, a - b)]
        return [one.numpy() for one in (*rows, *pairs)]

    limit = math.sqrt(-math.log(1e-4 / 2) / 2 * (1 / len(first) + 1 / len(second)))
    found = []
    for a, b in zip(features(first), features(second), strict=True):
        every = np.sort(np.concatenate([a, b]))
        parts = [np.searchsorted(np.sort(one), every, "right") / len(one) for one in (a, b)]
        found.append(float(np.abs(parts[0] - parts[1]).max()) / limit)
    return found
