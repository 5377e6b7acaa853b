"""Means of paired ratios."""

import math
from collections.abc import Sequence

from benchmarks.long_inputs.intervals import bootstrap


def geometric(ratios: Sequence[tuple[float, str]]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios, each with its group, and its interval over groups."""
    mean, low, high = bootstrap([math.log(r) for r, _ in ratios], [name for _, name in ratios])
    return math.exp(mean), math.exp(low), math.exp(high)
