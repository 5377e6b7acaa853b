"""The cost of a forward as a function of the number of rows it reads."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from outrider.core.errors import OptionError


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds of one forward by its number of rows: non-decreasing, linear between the points.

    Attributes:
        points: `(rows, seconds)`, rows ascending from at least 1.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        rows = [r for r, _ in self.points]
        if not rows or rows[0] < 1 or any(a >= b for a, b in pairwise(rows)):
            raise OptionError(
                f"the rows of the cost curve are {rows}",
                hint="Give ascending numbers of at least 1",
            )
        if not all(0.0 < s < float("inf") for _, s in self.points):
            raise OptionError(
                f"the seconds of the cost curve are {[s for _, s in self.points]}",
                hint="Give finite times above 0",
            )

    @classmethod
    def of(cls, seconds: Mapping[int, float]) -> "CostCurve":
        """Return the non-decreasing curve that is closest to the measured seconds.

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

    def seconds(self, rows: float) -> float:
        """Return the seconds of a forward over `rows`, extrapolated with the last slope beyond the
        last point.
        """
        points = self.points
        if rows <= points[0][0] or len(points) == 1:
            return points[0][1]
        right = min(bisect_right(points, rows, key=lambda p: p[0]), len(points) - 1)
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return y0 + (y1 - y0) * (rows - x0) / (x1 - x0)

    def plus(self, seconds: float) -> "CostCurve":
        """Return the curve with constant additional seconds per forward."""
        return CostCurve(tuple((rows, value + seconds) for rows, value in self.points))

    def ratio(self, rows: float) -> float:
        """Return `verify_cost`: seconds over `rows` / seconds over 1."""
        return self.seconds(rows) / self.seconds(1)
