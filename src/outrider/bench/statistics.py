"""Medians with their range, paired ratios with their uncertainty, and how much a text loops."""

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
        """None where there is no value."""
        if not len(values):
            return None
        return cls(float(np.median(values)), float(min(values)), float(max(values)))

    def to_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Paired ratios: their geometric mean, its 95 % interval, and their spread.

    Attributes:
        mean: geometric mean over pairs.
        low: lower end of the bootstrap interval of `mean` (pairs drawn with replacement).
        high: its upper end.
        median: of the single ratios.
        min: the smallest of them.
        max: the largest.
        pairs: how many there are.
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
        """None where there is no pair. With a single pair the interval is that ratio.

        Args:
            ratios: above 0, one for each pair.
            seed: of the resampling; equal seeds give equal intervals.
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
        """Plain numbers."""
        return asdict(self)


def repeated_tokens(tokens: Sequence[int], length: int = LOOP_LENGTH) -> int:
    """How many tokens lie inside an n-gram of this length that the text holds more than once.

    Loops flatter every drafter that copies; this says how much of a text is one.
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
    """Index of the first token at which two texts differ; None when they are equal."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def equal_share(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of the longer text's positions that hold the same token in both; 1 for empty texts."""
    longest = max(len(a), len(b))
    same = sum(x == y for x, y in zip(a, b, strict=False))
    return same / longest if longest else 1.0
