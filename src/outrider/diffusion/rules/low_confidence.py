"""LLaDA: each round commits a fixed number of tokens, the surest ones of the block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import OptionError, nearest
from outrider.core.types import IntArray
from outrider.diffusion.proposals import CONFIDENCES
from outrider.diffusion.record import DiffusionMethod
from outrider.diffusion.rule import STEPS, Block, Commits, Diffusion, View
from outrider.diffusion.steps import Quotas, steps_of
from outrider.protocols.method import Paper


@dataclass(frozen=True, kw_only=True)
class LowConfidence(Diffusion):
    """Commits the surest tokens of the block, as many as the steps need.

    Attributes:
        steps: rounds of the answer, split over its blocks; None: one for each position.
        confidence: `probability` of the proposed token, `margin` of the two best probabilities,
            negative `entropy`, a `random` order, or `left` to right.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = "low-confidence"

    steps: int | None = None
    confidence: str = "probability"

    def __post_init__(self) -> None:
        super().__post_init__()
        STEPS.check("steps", self.steps)
        if self.confidence not in CONFIDENCES:
            raise OptionError(
                f"confidence is {self.confidence!r}", hint=nearest(self.confidence, CONFIDENCES)
            )

    @property
    def is_planned(self) -> bool:
        """Whether the order does not depend on the forward."""
        return self.confidence == "random"

    def begin(self, blocks: Sequence[Block]) -> Commits:
        """Return the rule for one answer. Raises `OptionError` for fewer steps than blocks."""
        return _Surest(Quotas(steps_of(blocks, self.steps)), self.confidence)


class _Surest(Commits):
    """`LowConfidence` for one answer."""

    def __init__(self, quotas: Quotas, confidence: str) -> None:
        self._quotas, self._confidence = quotas, confidence

    def choose(self, view: View) -> IntArray:
        ranked = view.proposals.ranked(self._confidence)
        return ranked[: max(self._quotas.of(view) - view.taken, 0)]

    def planned(
        self, block: Block, visit: int, masked: IntArray, places: NDArray[np.float64]
    ) -> IntArray | None:
        if self._confidence != "random":
            return None
        self._quotas.split(block.number, len(masked))
        first = np.argsort(-places, kind="stable")[: self._quotas.at(visit)]
        return np.sort(masked[first])


METHOD = DiffusionMethod(
    name="low-confidence",
    cls=LowConfidence,
    summary="Commits a fixed number of tokens a round, the surest ones",
    paper=Paper("LLaDA: Large Language Diffusion Models", "2502.09992"),
)
