"""The slope of a noisy series: Theil-Sen, with an interval by bootstrap over blocks of time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

Series = Float[np.ndarray, " points"]

RESAMPLES = 400
BLOCKS = 16
MOST_POINTS = 160
"""More points than these are replaced by medians of neighbours: there is a slope for each pair."""


@dataclass(frozen=True, slots=True)
class Slope:
    """The slope of a series.

    Attributes:
        value: median of the slopes of all pairs of points (Theil 1950, Sen 1968).
        low: lower end of its 95 % interval.
        high: its upper end.
        points: number of points that were used.
    """

    value: float
    low: float
    high: float
    points: int

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for JSON."""
        return asdict(self)


def slope(times: Sequence[float], values: Sequence[float], *, seed: int = 0) -> Slope | None:
    """Compute the slope of `values` over `times`; None for fewer than three points.

    Neighbouring points are not independent, so that the bootstrap draws whole blocks of time, with
    replacement (Künsch 1989). Points keep their times.

    Args:
        times: increasing.
        values: one for each time.
        seed: of the resampling; equal seeds give equal intervals.
    """
    if len(times) != len(values):
        raise ValueError(f"{len(times)} times and {len(values)} values. Give as many of each")
    if len(times) < 3:
        return None
    x, y = _thinned(np.asarray(times, np.float64)), _thinned(np.asarray(values, np.float64))
    blocks = np.array_split(np.arange(len(x)), min(BLOCKS, len(x)))
    rng = np.random.default_rng(seed)
    found = list[float]()
    for _ in range(RESAMPLES):
        drawn = np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])
        if (one := _theil_sen(x[drawn], y[drawn])) is not None:
            found.append(one)
    value = _theil_sen(x, y)
    if value is None:
        return None
    low, high = np.quantile(found, (0.025, 0.975))
    return Slope(value, float(low), float(high), len(x))


def _theil_sen(x: Series, y: Series) -> float | None:
    """Return the median slope of all pairs with different times; None if there is no such pair."""
    first, second = np.triu_indices(len(x), 1)
    dx = x[second] - x[first]
    apart = dx != 0
    if not apart.any():
        return None
    return float(np.median((y[second] - y[first])[apart] / dx[apart]))


def _thinned(series: Series) -> Series:
    """Replace neighbours by their median, so that at most `MOST_POINTS` points are left."""
    if len(series) <= MOST_POINTS:
        return series
    return np.array([np.median(part) for part in np.array_split(series, MOST_POINTS)])
