"""Fast-dLLM: each round commits all tokens above a probability."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from outrider.core.checks import Range
from outrider.core.types import IntArray
from outrider.diffusion.proposals import Proposals
from outrider.diffusion.record import DiffusionMethod
from outrider.diffusion.rule import Block, Commits, Diffusion, View
from outrider.protocols.method import Paper

THRESHOLD = Range(0.0, hint="Give a probability, such as 0.9; above 1 for one token a round")


def sure(proposals: Proposals, threshold: float, taken: int) -> IntArray:
    """Return the rows of at least this probability, the surest first; if there is none and nothing
    is committed yet, the surest one."""
    ranked = proposals.ranked()
    count = int((proposals.confident[ranked] >= threshold).sum())
    return ranked[: max(count, 0 if taken else 1)]


@dataclass(frozen=True, kw_only=True)
class Threshold(Diffusion):
    """Commits the surest token of the block, and all others of at least `threshold`.

    If n marginals exceed 1 - e each and (n + 1) e <= 1, their best tokens are also the most
    probable ones of the joint distribution.

    Attributes:
        threshold: a probability; above 1, each round commits one token.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = "threshold"

    threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        THRESHOLD.check("threshold", self.threshold)

    def begin(self, blocks: Sequence[Block]) -> Commits:
        """Return the rule for one answer."""
        return _Above(self.threshold)


class _Above(Commits):
    """`Threshold` for one answer; it needs no state."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def choose(self, view: View) -> IntArray:
        return np.asarray(sure(view.proposals, self._threshold, view.taken))


METHOD = DiffusionMethod(
    name="threshold",
    cls=Threshold,
    summary="Commits all tokens above a probability, and at least the surest one",
    paper=Paper("Fast-dLLM", "2505.22618"),
)
