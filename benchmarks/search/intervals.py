"""Paired differences with their bootstrap intervals, and intervals as text."""

from collections.abc import Sequence

from benchmarks.long_inputs.intervals import bootstrap


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of the paired differences and its 95 % interval."""
    return bootstrap([a - b for a, b in zip(ours, theirs, strict=True)])


def shown(found: tuple[float, float, float], digits: int = 3) -> str:
    """Return a difference as text."""
    mean, low, high = found
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
