"""95 % intervals of shares, of means, of ratios, and of paired differences."""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
_Z = 1.959964


def wilson(found: int, runs: int) -> tuple[float, float]:
    """Wilson's interval of a share, within 0 and 1 (Wilson 1927); (0, 1) for no runs."""
    if not runs:
        return 0.0, 1.0
    share, z2 = found / runs, _Z**2
    middle = (share + z2 / (2 * runs)) / (1 + z2 / runs)
    half = _Z / (1 + z2 / runs) * math.sqrt(share * (1 - share) / runs + z2 / (4 * runs**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def bootstrap(
    values: Sequence[float], groups: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean, and the bootstrap interval of it.

    Args:
        values: at least one; differences of pairs give a paired interval.
        groups: of each value, such as its document. Whole groups are drawn then, since questions
            about one document are not independent.
        seed: of the resampling.
    """
    names = list(groups) if groups is not None else [str(i) for i in range(len(values))]
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    sums, counts = np.zeros(len(places)), np.zeros(len(places))
    for value, name in zip(values, names, strict=True):
        sums[places[name]] += value
        counts[places[name]] += 1
    picked = np.random.default_rng(seed).integers(len(places), size=(RESAMPLES, len(places)))
    means = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


def geometric(ratios: Sequence[float], groups: Sequence[str]) -> tuple[float, float, float]:
    """Geometric mean of ratios, and its bootstrap interval over whole groups (`bootstrap`)."""
    mean, low, high = bootstrap([math.log(ratio) for ratio in ratios], groups)
    return math.exp(mean), math.exp(low), math.exp(high)
