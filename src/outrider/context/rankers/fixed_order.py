"""Chunks in a fixed order, which knows nothing of meaning: what a selection must beat."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float64
from numpy import ndarray

from outrider.core.types import LongContext, Passage

Order = Callable[[int], ndarray]
"""From the number of chunks to the place of each in the queue, 0 first."""


@dataclass(frozen=True)
class FixedRanker:
    """Chunks in an order that is fixed before anything is read.

    Attributes:
        name: how reports call it.
        order: the order.
    """

    name: str
    order: Order
    encoder_name: str | None = None
    encoder: None = None
    refreshes: bool = False

    def index(self, context: LongContext) -> "FixedIndex":
        """Nothing is read."""
        places = self.order(len(context.chunks))
        return FixedIndex(1.0 - places / max(len(places), 1))


@dataclass(frozen=True)
class FixedIndex:
    """Scores from 1 downwards in equal steps, whatever is asked."""

    order: Float64[ndarray, " chunks"]

    def scores(
        self, query: Passage, recent: Passage | None, mix: float
    ) -> Float64[ndarray, " chunks"]:
        """The same each time."""
        return self.order
