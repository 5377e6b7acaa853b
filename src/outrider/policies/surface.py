"""The cost of a forward as a function of its rows, its sequences and the texts that it reads.

Thirty-two rows cost about twice as much as 32 sequences of one row than as 4 sequences of 8, since
attention is done for each sequence. A curve over rows alone therefore misprices batches.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from outrider.core.errors import OptionError

_WEIGHT = 0.02
"""Weight of the newest forward in the pace."""


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


@dataclass(frozen=True, slots=True)
class CostSurface:
    """Seconds of a forward: `T = pace * (curve(rows) + per_sequence * (sequences - 1) + per_token *
    more)`, where `more` is by how many tokens the texts are longer than those of the measurement.
    The curve is non-decreasing, and linear between its points.

    Attributes:
        points: `(rows, seconds)` of one sequence, rows ascending from at least 1.
        per_sequence: seconds that each further sequence adds at the same number of rows.
        per_token: seconds that each token of the texts adds.
        context: tokens of each text in the measurement.
        pace: what forwards take now, relative to the measurement.
    """

    points: tuple[tuple[int, float], ...]
    per_sequence: float = 0.0
    per_token: float = 0.0
    context: int = 0
    pace: float = 1.0

    def __post_init__(self) -> None:
        rows = [r for r, _ in self.points]
        if not rows or rows[0] < 1 or any(a >= b for a, b in pairwise(rows)):
            raise OptionError(
                f"the rows of the cost surface are {rows}",
                hint="Give ascending numbers of at least 1",
            )
        if not all(0.0 < s < float("inf") for _, s in self.points):
            raise OptionError(
                f"the seconds of the cost surface are {[s for _, s in self.points]}",
                hint="Give finite times above 0",
            )

    @classmethod
    def of(cls, seconds: Mapping[int, float]) -> "CostSurface":
        """Return the surface whose non-decreasing curve is closest to the measured seconds of one
        sequence; further sequences and texts cost nothing.

        Noise can make a wider forward appear faster than a narrower one; such neighbours are
        averaged (isotonic regression by pooling adjacent violators). Raises `OptionError` if there
        are no measurements, or for times that are not above 0.
        """
        pools: list[tuple[float, list[int]]] = []
        for rows in sorted(seconds):
            pools.append((seconds[rows], [rows]))
            while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                (b, right), (a, left) = pools.pop(), pools.pop()
                mean = (a * len(left) + b * len(right)) / (len(left) + len(right))
                pools.append((mean, left + right))
        return cls(tuple((r, value) for value, rows in pools for r in rows))

    @classmethod
    def fitted(
        cls,
        alone: Mapping[int, float],
        together: Sequence[tuple[Forward, float]],
        context: int,
    ) -> "CostSurface":
        """Fit a surface to measured seconds.

        Args:
            alone: seconds of one sequence by rows, with a text of `context` tokens.
            together: seconds of other forwards: those of several sequences determine
                `per_sequence`, those of one sequence with a longer text `per_token`.
            context: tokens of the text of `alone`.

        Raises:
            OptionError: `alone` is empty, or holds times that are not above 0.
        """
        surface = cls.of(alone)

        def excess(forward: Forward, seconds: float) -> float:
            return seconds - surface.seconds(forward.rows)

        token = _slope(
            [(f.context - context, excess(f, t), t) for f, t in together if f.sequences == 1]
        )
        if context:  # a shorter text never takes less than a tenth
            token = min(token, 0.9 * surface.points[0][1] / context)
        each = _slope(
            [
                (f.sequences - 1, excess(f, t) - token * (f.context - context * f.sequences), t)
                for f, t in together
                if f.sequences > 1
            ]
        )
        return replace(surface, per_sequence=each, per_token=token, context=context)

    def seconds(self, rows: float, sequences: int = 1, context: int | None = None) -> float:
        """Return the seconds of a forward; beyond the last point with the last slope.

        Args:
            rows: rows of all sequences together.
            sequences: number of sequences.
            context: tokens of all texts together; None: they are as long as in the measurement.
        """
        more = 0 if context is None else context - self.context * sequences
        extra = self.per_sequence * (sequences - 1) + self.per_token * more
        return (self._alone(rows) + extra) * self.pace

    def _alone(self, rows: float) -> float:
        points = self.points
        if rows <= points[0][0] or len(points) == 1:
            return points[0][1]
        right = min(bisect_right(points, rows, key=lambda p: p[0]), len(points) - 1)
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return y0 + (y1 - y0) * (rows - x0) / (x1 - x0)

    def plus(self, seconds: float) -> "CostSurface":
        """Return the surface with constant additional seconds per forward, at any pace."""
        points = tuple((rows, value + seconds / self.pace) for rows, value in self.points)
        return replace(self, points=points)

    def ratio(self, rows: float) -> float:
        """Return `verify_cost`: seconds over `rows` / seconds over 1."""
        return self.seconds(rows) / self.seconds(1)

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


def _slope(points: Sequence[tuple[float, float, float]]) -> float:
    """Return the slope, at least 0, of the line through the origin with the least squared relative
    error; 0 without points.

    Args:
        points: `(x, y, seconds)`; errors are relative to the seconds.
    """
    squares = sum((x / seconds) ** 2 for x, _, seconds in points)
    products = sum(x * y / seconds**2 for x, y, seconds in points)
    return max(products / squares, 0.0) if squares else 0.0
