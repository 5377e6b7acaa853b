"""How much drafts may lose before they must show that they gain."""

from dataclasses import dataclass

SHORTEST = 0.003
"""Seconds of an undrafted round below which losses count in proportion less: the whole allowance is
never less than a tenth of a second."""


@dataclass(slots=True)
class Allowance:
    """What drafts may lose, in undrafted rounds, over all sizes of batches.

    Losses and trials spend it; gains and time fill it, up to its capacity. So in any number of
    rounds N, drafts lose at most `CAPACITY + REFILL * N` rounds, and what one decision takes. The
    reserve is for trials, so that a first one can follow soon.
    """

    left: float = 30.0

    CAPACITY = 30.0
    REFILL = 0.009
    RESERVE = 6.0

    @property
    def overdrawn(self) -> bool:
        """Whether no more may be lost, except in trials."""
        return self.left <= self.RESERVE

    @property
    def empty(self) -> bool:
        """Whether nothing more may be lost."""
        return self.left <= 0.0

    def pass_round(self, scale: float) -> None:
        """Add the share of a round."""
        self.left = min(self.left + scale * self.REFILL, self.CAPACITY)

    def charge(self, loss: float) -> float:
        """Subtract a loss; a gain is negative. Return by how much less is left."""
        before, self.left = self.left, min(self.left - loss, self.CAPACITY)
        return before - self.left


def scale(seconds: float) -> float:
    """Return how much a round counts whose undrafted form takes so long; 1 if that is unknown."""
    return min(seconds / SHORTEST, 1.0) if seconds else 1.0
