"""The cost of a forward as a function of its sequences, its rows and the texts that it reads.

Thirty-two rows cost about twice as much as 32 sequences of one row than as 4 sequences of 8, since
attention is done for each sequence. A curve over rows alone therefore misprices batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from outrider.policies.curve import CostCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """The size of a forward.

    Attributes:
        sequences: texts that it reads.
        rows: rows of all texts together.
        context: tokens of all texts together.
    """

    sequences: int
    rows: int
    context: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSurface:
    """Seconds of a forward: `T = curve(rows) + per_sequence * (sequences - 1) + per_token *
    context`.

    Attributes:
        curve: seconds by rows of one sequence with an empty text; non-decreasing.
        per_sequence: seconds that each further sequence adds at the same number of rows.
        per_token: seconds that each token of the texts adds, for each row that a sequence has.
        pace: what forwards take now, relative to the measurement.
    """

    curve: CostCurve
    per_sequence: float = 0.0
    per_token: float = 0.0
    pace: float = 1.0

    def seconds(self, rows: float, sequences: int = 1, context: float = 0.0) -> float:
        """Return the seconds of a forward.

        Args:
            rows: rows of all sequences together.
            sequences: number of sequences.
            context: tokens of all texts together.
        """
        extra = self.per_sequence * (sequences - 1) + self.per_token * context
        return (self.curve.seconds(rows) + extra) * self.pace

    def rows_within(self, seconds: float, forward: Forward, most: int) -> int:
        """Return how many more rows a forward can have and take at most `seconds`; up to `most`."""
        low, high = 0, most
        while low < high:  # the largest number, by bisection: the curve never descends
            middle = (low + high + 1) // 2
            if self.seconds(forward.rows + middle, forward.sequences, forward.context) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def refreshed(self, seen: float, forward: Forward) -> "CostSurface":
        """Return the surface after a forward that took `seen` seconds: its pace follows slowly."""
        expected = self.seconds(forward.rows, forward.sequences, forward.context) / self.pace
        ratio = min(max(seen / expected, 0.1), 4.0 * self.pace)
        return replace(self, pace=self.pace + _WEIGHT * (ratio - self.pace))


_WEIGHT = 0.02
"""Weight of the newest forward in the pace."""


def fitted(
    alone: Mapping[int, float], together: Sequence[tuple[Forward, float]], context: int
) -> CostSurface:
    """Fit a surface to measured seconds.

    Args:
        alone: seconds of one sequence by rows, with a text of `context` tokens.
        together: seconds of other forwards.
        context: tokens of the text of `alone`.

    Raises:
        OptionError: `alone` is empty, or holds times that are not above 0.
    """
    curve = CostCurve.of(alone)
    if not together:
        return CostSurface(curve=curve)
    excess = np.array([seconds - curve.seconds(f.rows) for f, seconds in together])
    terms = np.array([[f.sequences - 1, f.context - context] for f, _ in together], dtype=float)
    weights = 1.0 / np.array([seconds for _, seconds in together])  # relative errors count
    each, token = _non_negative(terms * weights[:, None], excess * weights)
    least = min(seconds for seconds in alone.values())
    token = min(token, 0.9 * least / context) if context else token
    return CostSurface(
        curve=curve.plus(-token * context) if token else curve,
        per_sequence=each,
        per_token=token,
    )


def _non_negative(terms: "np.ndarray", values: "np.ndarray") -> tuple[float, float]:
    """Return the least-squares solution of two unknowns that are at least 0."""
    best = (0.0, 0.0)
    smallest = float(values @ values)
    for columns in ((0, 1), (0,), (1,)):
        chosen = list(columns)
        found = np.linalg.lstsq(terms[:, chosen], values, rcond=None)[0]
        if (found < 0.0).any():
            continue
        rest = values - terms[:, chosen] @ found
        if float(rest @ rest) < smallest:
            smallest = float(rest @ rest)
            full = [0.0, 0.0]
            for column, value in zip(chosen, found, strict=True):
                full[column] = float(value)
            best = (full[0], full[1])
    return best
