"""Medians with their range, paired ratios with their uncertainty, and repetition in texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000
LOOP_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and the largest value."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Compute the spread; None if there is no value."""
        if not len(values):
            return None
        return cls(float(np.median(values)), float(min(values)), float(max(values)))

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Paired ratios: their geometric mean, its 95 % interval, and their spread.

    Attributes:
        mean: geometric mean over pairs.
        low: lower end of the bootstrap interval of `mean` (pairs drawn with replacement).
        high: its upper end.
        median: median of the single ratios.
        min: the smallest ratio.
        max: the largest ratio.
        pairs: number of pairs.
    """

    mean: float
    low: float
    high: float
    median: float
    min: float
    max: float
    pairs: int

    @classmethod
    def of(cls, ratios: Sequence[float], *, seed: int = 0) -> "Ratio | None":
        """Compute the ratio; None if there is no pair. With a single pair the interval is that
        ratio.

        Args:
            ratios: above 0, one for each pair.
            seed: seed of the resampling; equal seeds give equal intervals.
        """
        if not len(ratios):
            return None
        logs = np.log(np.asarray(ratios, dtype=np.float64))
        rng = np.random.default_rng(seed)
        picked = rng.integers(len(logs), size=(RESAMPLES, len(logs)))
        low, high = np.quantile(logs[picked].mean(axis=1), (0.025, 0.975))
        return cls(
            mean=float(np.exp(logs.mean())),
            low=float(np.exp(low)),
            high=float(np.exp(high)),
            median=float(np.median(ratios)),
            min=float(min(ratios)),
            max=float(max(ratios)),
            pairs=len(ratios),
        )

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for JSON."""
        return asdict(self)


def repeated_tokens(tokens: Sequence[int], length: int = LOOP_LENGTH) -> int:
    """Count the tokens inside n-grams of this length that occur more than once in the text.

    Repetition makes every drafter that copies look better; this measures how repetitive a text is.
    """
    grams = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
    counts = Counter(grams)
    inside = {
        place
        for start, gram in enumerate(grams)
        if counts[gram] > 1
        for place in range(start, start + length)
    }
    return len(inside)


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Return the index of the first token at which two texts differ; None if they are equal."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def equal_share(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the share of the longer text's positions with equal tokens in both; 1 for empty
    texts.
    """
    longest = max(len(a), len(b))
    same = sum(x == y for x, y in zip(a, b, strict=False))
    return same / longest if longest else 1.0
