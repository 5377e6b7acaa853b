"""Two-sample tests with permutations: whether two sets of vectors have one distribution."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
PERMUTATIONS = 999
_FOLDS, _RIDGE = 5, 0.1


@dataclass(frozen=True, slots=True)
class Found:
    """A statistic, and the share of permutations whose statistic is at least as large."""

    value: float
    p: float


def energy(first: Vectors, second: Vectors, seed: int = 0) -> Found:
    """Energy distance (Szekely and Rizzo 2004) of two sets of equal size."""
    distances = _distances(np.concatenate([first, second]))

    def statistic(labels: NDArray[np.float64]) -> float:
        # Mean distance across, twice, minus the means within; with signs this is one product.
        signs = 2 * labels - 1
        return float(-(signs @ distances @ signs) / (len(labels) / 2) ** 2)

    return _permuted(statistic, len(first), len(second), seed)


def nearest(first: Vectors, second: Vectors, seed: int = 0) -> Found:
    """Share of vectors whose nearest other vector is from the same set; 0.5 for equal sets."""
    distances = _distances(np.concatenate([first, second]))
    np.fill_diagonal(distances, np.inf)
    neighbours = distances.argmin(1)
    return _permuted(
        lambda labels: float((labels == labels[neighbours]).mean()), len(first), len(second), seed
    )


def linear(first: Vectors, second: Vectors, seed: int = 0) -> Found:
    """Share of held-out vectors whose set a linear classifier names (ridge regression on
    standardised numbers, five folds)."""
    every = np.concatenate([first, second])
    every = (every - every.mean(0)) / (every.std(0) + 1e-6)
    folds = np.random.default_rng(seed).permutation(len(every)) % _FOLDS
    # Predictions are linear in the labels, so one matrix serves all permutations.
    maps = np.zeros((len(every), len(every)))
    gram = every @ every.T / every.shape[1]
    for fold in range(_FOLDS):
        held, kept = folds == fold, folds != fold
        inner = gram[np.ix_(kept, kept)] + _RIDGE * np.eye(int(kept.sum()))
        maps[np.ix_(held, kept)] = np.linalg.solve(inner, gram[np.ix_(kept, held)]).T
    return _permuted(
        lambda labels: float(((maps @ (2 * labels - 1) > 0) == (labels > 0.5)).mean()),
        len(first),
        len(second),
        seed,
    )


def _permuted(
    statistic: Callable[[NDArray[np.float64]], float], first: int, second: int, seed: int
) -> Found:
    labels = np.concatenate([np.zeros(first), np.ones(second)])
    value = statistic(labels)
    rng = np.random.default_rng(seed)
    above = sum(statistic(rng.permutation(labels)) >= value for _ in range(PERMUTATIONS))
    return Found(value, (above + 1) / (PERMUTATIONS + 1))


def _distances(every: Vectors) -> NDArray[np.float64]:
    squares = (every**2).sum(1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * every @ every.T, 0.0))
