"""Means with how far they can be trusted."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from outrider.errors import OptionError
from outrider.types import IntArray

RESAMPLES = 2000


def _draws(count: int, seed: int) -> Iterator[IntArray]:
    """Places drawn with replacement. One draw at a time: all of them would need much memory."""
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
        count: how many values there are.
    """

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], *, seed: int = 0) -> "Mean":
        """Values are drawn with replacement; differences of pairs give a paired interval.

        Args:
            values: at least one; a single value is its own interval.
            seed: of the resampling; equal seeds give equal intervals.

        Raises:
            OptionError: no values, or one that is not finite.
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
        """The sum of parts over the sum of wholes; pairs are drawn together.

        None where the wholes sum to 0. Draws that hold no whole count as 0.

        Args:
            parts: of each caption, such as its true facts.
            wholes: of each caption, such as the facts there are.
            seed: of the resampling.
        """
        part, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
        if not whole.sum():
            return None
        shares = [part[d].sum() / max(whole[d].sum(), 1e-300) for d in _draws(len(whole), seed)]
        low, high = np.quantile(shares, (0.025, 0.975))
        return cls(
            mean=float(part.sum() / whole.sum()), low=float(low), high=float(high), count=len(whole)
        )

    def to_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return asdict(self)
