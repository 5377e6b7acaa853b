"""Paired differences with their bootstrap intervals."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> tuple[float, ...]:
    """Return the mean of the paired differences and its 95 % interval (pairs drawn with
    replacement)."""
    pairs = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    low, high = np.quantile(pairs[picked].mean(axis=1), (0.025, 0.975))
    return float(pairs.mean()), float(low), float(high)


def shown(found: tuple[float, ...], digits: int = 3) -> str:
    """Return a difference as text."""
    mean, low, high = found
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
