"""Ranks chunks in a fixed order without their content: baselines for other rankers."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float64
from numpy import ndarray

from outrider.core.types import LongContext, Passage

Order = Callable[[int], ndarray]
"""Maps the number of chunks to the rank of each, 0 first."""


@dataclass(frozen=True)
class FixedRanker:
    """Ranks chunks in an order that does not depend on their content.

    Attributes:
        name: its name in reports.
        order: the order.
    """

    name: str
    order: Order
    encoder_name: str | None = None
    encoder: None = None
    refreshes: bool = False

    def index(self, context: LongContext) -> "FixedIndex":
        """Build the index; the text is not read."""
        places = self.order(len(context.chunks))
        return FixedIndex(1.0 - places / max(len(places), 1))


@dataclass(frozen=True)
class FixedIndex:
    """Scores from 1 downwards in equal steps, independent of the query."""

    order: Float64[ndarray, " chunks"]

    def scores(
        self, query: Passage, recent: Passage | None, mix: float
    ) -> Float64[ndarray, " chunks"]:
        """Return the same scores at each call."""
        return self.order
