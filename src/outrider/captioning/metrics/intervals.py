"""Means with bootstrap confidence intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from outrider.core.errors import OptionError
from outrider.core.metrics import ratio
from outrider.core.types import IntArray

RESAMPLES = 2000

Shares = tuple[Sequence[float], Sequence[float]]
"""For each caption a part, and the whole that it is a part of."""


def _share(both: Float64[ndarray, "2 values"]) -> float:
    parts, wholes = both.sum(axis=1)
    return float(ratio(parts, wholes))


def _draws(count: int, seed: int) -> Iterator[IntArray]:
    """Yield indices drawn with replacement, one draw at a time to save memory."""
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield rng.integers(count, size=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean and its 95 % bootstrap interval.

    Attributes:
        mean: of all values.
        low: lower end of the interval.
        high: its upper end.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], *, seed: int = 0) -> "Mean":
        """Compute a mean; values are resampled with replacement. Differences of pairs give a paired
        interval.

        Args:
            values: at least one value; the interval of a single value is that value.
            seed: seed of the resampling; equal seeds give equal intervals.

        Raises:
            OptionError: there are no values, or one is not finite.
        """
        found = np.asarray(values, dtype=np.float64)
        if not len(found):
            raise OptionError("there are no values to take the mean of")
        if not np.isfinite(found).all():
            place = int(np.flatnonzero(~np.isfinite(found))[0])
            raise OptionError(f"value {place} is {found[place]}, not a finite number")
        means = [found[drawn].mean() for drawn in _draws(len(found), seed)]
        low, high = np.quantile(means, (0.025, 0.975))
        return cls(mean=float(found.mean()), low=float(low), high=float(high), count=len(found))

    @classmethod
    def of_shares(
        cls, parts: Sequence[float], wholes: Sequence[float], *, seed: int = 0
    ) -> "Mean | None":
        """Compute the sum of parts over the sum of wholes; pairs are resampled together.

        None if the wholes sum to 0. Draws whose wholes sum to 0 count as 0.

        Args:
            parts: part of each caption, such as its true facts.
            wholes: whole of each caption, such as all facts of its scene.
            seed: seed of the resampling.
        """
        both = np.asarray((parts, wholes), dtype=np.float64)
        if not both[1].sum():
            return None
        shares = [_share(both[:, drawn]) for drawn in _draws(both.shape[1], seed)]
        low, high = np.quantile(shares, (0.025, 0.975))
        return cls(mean=_share(both), low=float(low), high=float(high), count=both.shape[1])

    @classmethod
    def of_share_gain(cls, first: Shares, second: Shares, *, seed: int = 0) -> "Mean | None":
        """Compute by how much the share of `second` exceeds that of `first`; captions are paired.

        None if the wholes of one of them sum to 0.

        Args:
            first: parts and wholes of each caption.
            second: the same for other captions of the same images, in the same order.
            seed: seed of the resampling.
        """
        before, after = (np.asarray(each, dtype=np.float64) for each in (first, second))
        if not before[1].sum() or not after[1].sum():
            return None
        gains = [_share(after[:, d]) - _share(before[:, d]) for d in _draws(before.shape[1], seed)]
        low, high = np.quantile(gains, (0.025, 0.975))
        gain = _share(after) - _share(before)
        return cls(mean=gain, low=float(low), high=float(high), count=before.shape[1])

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for JSON."""
        return asdict(self)
