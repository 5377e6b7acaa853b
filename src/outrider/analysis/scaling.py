"""Fits of tokens a round: they grow about linearly with a logarithm.

Scylla (arXiv 2505.07858) observes that the tokens a round, tau,
grow with the logarithm of the tokens that a draft model was trained on (D), and with the logarithm
of the number of its layers (L). The coefficients belong to a target and to a recipe, so they are
fitted to measurements of one's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.errors import OptionError

LEAST_POINTS = 4
"""Points on an axis that a fit needs. Two parameters pass close to any three points."""
FARTHEST = 4.0
"""How far beyond the measured points a fit is used, as a factor of the largest one."""


@dataclass(frozen=True, slots=True)
class LogFit:
    """A least-squares fit `tau(x) = intercept + slope ln x`.

    Attributes:
        axis: what x counts, for messages, such as `training tokens`.
        intercept: tau at x = 1 (`a` of the paper).
        slope: what a factor of e adds to tau (`b` of the paper).
        r_squared: share of the variance that the fit explains; 1 if all tau are equal.
        smallest: the smallest measured x.
        largest: the largest measured x.
        points: number of measurements.
    """

    axis: str
    intercept: float
    slope: float
    r_squared: float
    smallest: float
    largest: float
    points: int

    @classmethod
    def fitted(cls, axis: str, points: Sequence[tuple[float, float]]) -> "LogFit":
        """Fit measured pairs (x, tau).

        Args:
            axis: what x counts.
            points: at least four different x above 0, each with tokens a round of at least 1.

        Raises:
            OptionError: fewer points, or numbers outside these ranges.
        """
        for x, tau in points:
            if not (0 < x < math.inf and 1 <= tau < math.inf):
                raise OptionError(
                    f"a measurement by {axis} is ({x:g}, {tau:g})",
                    hint="Give a size above 0 and tokens a round of 1 or more, next token included",
                )
        found = len({x for x, _ in points})
        if found < LEAST_POINTS:
            raise OptionError(
                f"tokens a round are known for {found} numbers of {axis}",
                hint=f"Measure at least {LEAST_POINTS} different ones",
            )
        logs, taus = [math.log(x) for x, _ in points], [tau for _, tau in points]
        middle, mean = math.fsum(logs) / len(points), math.fsum(taus) / len(points)
        spread = math.fsum((u - middle) ** 2 for u in logs)
        slope = math.fsum((u - middle) * (t - mean) for u, t in zip(logs, taus, strict=True))
        slope /= spread
        intercept = mean - slope * middle
        left = math.fsum((t - intercept - slope * u) ** 2 for u, t in zip(logs, taus, strict=True))
        total = math.fsum((t - mean) ** 2 for t in taus)
        return cls(
            axis=axis,
            intercept=intercept,
            slope=slope,
            r_squared=1.0 - left / total if total else 1.0,
            smallest=min(x for x, _ in points),
            largest=max(x for x, _ in points),
            points=len(points),
        )

    def tau(self, x: float) -> float:
        """Return the expected tokens a round at x, at least 1.

        Raises:
            OptionError: x is more than four times the largest measured point, or less than a
                quarter of the smallest one.
        """
        if not self.smallest / FARTHEST <= x <= FARTHEST * self.largest:
            raise OptionError(
                f"{x:g} {self.axis} are too far from the measured {self.smallest:g} to "
                f"{self.largest:g}",
                hint=f"Stay within {self.smallest / FARTHEST:g} to {FARTHEST * self.largest:g}, or "
                "measure nearer",
            )
        return max(self.intercept + self.slope * math.log(x), 1.0)

    def to_dict(self) -> dict[str, float | str]:
        """Return the fit as JSON."""
        return {
            "axis": self.axis,
            "a": self.intercept,
            "b": self.slope,
            "r_squared": self.r_squared,
            "smallest": self.smallest,
            "largest": self.largest,
            "points": self.points,
        }
