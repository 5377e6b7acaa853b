"""Ratios of times on the same prompt, and t-intervals of their mean.

All speeds are compared as `x = ln(seconds of plain decoding / seconds of the arm)` on one prompt,
so that a slow prompt or a slow phase of the machine affects both. Means are taken over `x`: the
exponential of a mean is the geometric mean of the speedups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import atan, cos, exp, fsum, inf, log, pi, sin, sqrt
from statistics import fmean
from typing import Any

CLIP = log(4.0)
"""A single ratio counts as at most this, up or down: a stall of the machine is no speed."""


def log_ratio(plain: float, arm: float) -> float:
    """Return `ln(plain / arm)`, clipped to +-ln 4.

    Args:
        plain: seconds per token of undrafted decoding, above 0.
        arm: seconds per token of the arm on the same prompt, above 0.
    """
    return min(max(log(plain / arm), -CLIP), CLIP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """The speedup over plain decoding, as a factor.

    Attributes:
        mean: geometric mean.
        low: lower end of its interval.
        high: upper end.
        pairs: number of prompts with a pair of times.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, logs: Sequence[float], error: float = 0.05) -> "Speedup | None":
        """Return the mean of `logs` with its two-sided t-interval; None without any.

        Args:
            logs: `log_ratio` of each prompt.
            error: the chance that the interval misses the mean, such as 0.05 for 95 %.
        """
        if not logs:
            return None
        mean = fmean(logs)
        if len(logs) < 2:
            return cls(mean=exp(mean), low=0.0, high=inf, pairs=len(logs))
        freedom = len(logs) - 1
        variance = fsum((x - mean) ** 2 for x in logs) / freedom  # `stdev` is 20 times slower
        reach = quantile(1.0 - error, freedom) * sqrt(variance / len(logs))
        return cls(mean=exp(mean), low=exp(mean - reach), high=exp(mean + reach), pairs=len(logs))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Speedup":
        """Read what `to_dict` returned."""
        return cls(**{**data, "high": inf if data["high"] is None else data["high"]})

    def to_dict(self) -> dict[str, float | None]:
        """Return plain numbers for JSON; an upper end that is not finite is None."""
        found: dict[str, float | None] = dict(asdict(self))
        return found | {"high": None if self.high == inf else self.high}

    def __str__(self) -> str:
        high = "any" if self.high == inf else f"{self.high:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {high}]"


def within(t: float, freedom: int) -> float:
    """Return the chance that the absolute value of Student's t is at most `t`.

    The finite series for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    angle = atan(t / sqrt(freedom))
    square = cos(angle) ** 2
    odd = freedom % 2 == 1
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    above = 2 if odd else 1
    for _ in range((freedom - 1) // 2 if odd else freedom // 2):
        total += term
        term *= square * above / (above + 1)
        above += 2
    if odd:
        return 2.0 / pi * (angle + sin(angle) * total)
    return sin(angle) * total


@lru_cache(maxsize=1024)
def quantile(chance: float, freedom: int) -> float:
    """Return the `t` with `within(t, freedom) == chance`, for a chance below 1."""
    low, high = 0.0, 1.0
    while within(high, freedom) < chance:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < chance else (low, middle)
    return high
