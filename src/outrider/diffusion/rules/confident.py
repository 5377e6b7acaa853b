"""Dimple: each round commits all tokens above a probability, or as many as a schedule says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from outrider.core.checks import Range
from outrider.core.errors import OptionError, nearest
from outrider.core.types import IntArray
from outrider.diffusion.proposals import CONFIDENCES
from outrider.diffusion.record import DiffusionMethod
from outrider.diffusion.rule import STEPS, Block, Commits, Diffusion, View
from outrider.diffusion.steps import steps_of
from outrider.protocols.method import Paper

_EPSILON = 1e-3
"""The last value of the schedule."""

_GAMMA = Range(0.0, hint="Give a probability, such as 0.95; 0 for the schedule alone")


@dataclass(frozen=True, kw_only=True)
class Confident(Diffusion):
    """Commits all tokens of a probability above `gamma`. If there is none, it commits as many as
    the schedule says, in the order of `confidence`. The last step commits everything.

    The probability is that before temperature and truncation. The whole answer is one block unless
    `block` says otherwise.

    Attributes:
        gamma: a probability; from 1 on, and at 0, only the schedule decides.
        steps: the most rounds of the answer; None: one for each position.
        confidence: the order of the schedule: `probability`, `margin`, `entropy`, `random` or
            `left`.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = "confident"

    block: int | None = None
    gamma: float = 0.95
    steps: int | None = None
    confidence: str = "probability"

    def __post_init__(self) -> None:
        super().__post_init__()
        _GAMMA.check("gamma", self.gamma)
        STEPS.check("steps", self.steps)
        if self.confidence not in CONFIDENCES:
            raise OptionError(
                f"confidence is {self.confidence!r}", hint=nearest(self.confidence, CONFIDENCES)
            )

    def begin(self, blocks: Sequence[Block]) -> Commits:
        """Return the rule for one answer. Raises `OptionError` for fewer steps than blocks."""
        return _Scheduled(self, steps_of(blocks, self.steps))


def scheduled(masks: int, masks_at_first: int, steps: int) -> int:
    """Return how many of `masks` open positions a round commits by the schedule.

    The schedule holds `steps + 1` equally spaced ratios of open positions, from 1 down to 0.001.
    From the first ratio s below the present one, the first that leaves `floor(masks (1 - s / t))`
    of at least 1 is used, where t is the present ratio; everything if there is none.

    Source: Dimple, arXiv 2505.16990.
    """
    ratio = masks / masks_at_first
    for value in np.linspace(1.0, _EPSILON, steps + 1).tolist():
        if value < ratio and (count := int(masks * (1.0 - value / ratio) + 1e-9)) >= 1:
            return count
    return masks


class _Scheduled(Commits):
    """`Confident` for one answer."""

    def __init__(self, rule: Confident, steps: Sequence[int]) -> None:
        self._rule, self._steps = rule, steps
        self._at_first = self._number = -1
        self._count = 0

    def choose(self, view: View) -> IntArray:
        proposals, gamma = view.proposals, self._rule.gamma
        first_call = view.number != self._number
        self._number = view.number
        if first_call:
            if view.visit == 0:
                self._at_first = view.open_slots
            above = bool((proposals.confident > gamma).any()) if gamma else False
            steps = self._steps[view.block.number]
            self._count = 0 if above else scheduled(view.open_slots, self._at_first, steps)
            if view.visit >= steps - 1:
                self._count = view.open_slots
        if self._count:
            return proposals.ranked(self._rule.confidence)[: max(self._count - view.taken, 0)]
        ranked = proposals.ranked()
        return ranked[: int((proposals.confident > gamma).sum())]


METHOD = DiffusionMethod(
    name="confident",
    cls=Confident,
    summary="Commits all tokens above a probability, else as many as a schedule says",
    paper=Paper("Dimple: Discrete Diffusion Multimodal Language Model", "2505.16990"),
)
