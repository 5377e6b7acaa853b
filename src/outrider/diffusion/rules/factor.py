"""Fast-dLLM: each round commits as many tokens as their probabilities allow together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from outrider.core.checks import Range
from outrider.core.types import IntArray
from outrider.diffusion.record import DiffusionMethod
from outrider.diffusion.rule import Block, Commits, Diffusion, View
from outrider.protocols.method import Paper

_FACTOR = Range(0.0, hint="Give a number such as 1.0; 0 for one token a round")


@dataclass(frozen=True, kw_only=True)
class Factor(Diffusion):
    """Commits the n surest tokens of the block, for the largest n with `(n + 1) (1 - c_n) < factor`
    where c_n is the n-th largest probability, and at least one.

    Attributes:
        factor: up to 1, the tokens are the most probable ones together as well.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = "factor"

    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _FACTOR.check("factor", self.factor)

    def begin(self, blocks: Sequence[Block]) -> Commits:
        """Return the rule for one answer."""
        return _Together(self.factor)


class _Together(Commits):
    """`Factor` for one answer; it needs no state."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def choose(self, view: View) -> IntArray:
        ranked = view.proposals.ranked()
        doubt = 1.0 - view.proposals.confident[ranked]
        number = view.taken + 1 + np.arange(len(ranked))
        fits = np.flatnonzero((number + 1) * doubt < self._factor)
        count = int(fits[-1]) + 1 if len(fits) else 0
        return ranked[: max(count, 0 if view.taken else 1)]


METHOD = DiffusionMethod(
    name="factor",
    cls=Factor,
    summary="Commits as many of the surest tokens as their doubts allow together",
    paper=Paper("Fast-dLLM", "2505.22618"),
)
