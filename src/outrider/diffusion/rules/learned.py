"""Learn2PD: a small trained network says which predictions of a block are final."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from outrider.core.checks import Range
from outrider.core.errors import OptionError, nearest
from outrider.core.types import IntArray
from outrider.diffusion.proposals import CONFIDENCES
from outrider.diffusion.record import DiffusionMethod
from outrider.diffusion.rule import STEPS, Block, Commits, Diffusion, View
from outrider.diffusion.steps import Quotas, steps_of
from outrider.models.denoisers.filter import UnmaskingFilter
from outrider.protocols.info import ModelInfo
from outrider.protocols.method import Paper

_ACCEPT = Range(0.0, 1.0, hint="Give a probability, such as 0.96; 1 for none")


@dataclass(frozen=True, kw_only=True)
class Learned(Diffusion):
    """Commits the predictions that the filter takes for final, then those of `low-confidence`.

    The filter reads the probability of the most likely token at every position of the block. A last
    block that is shorter is read as if positions of probability 1 followed.

    Attributes:
        filter: the file that `outrider train unmasking` has written, a folder that holds it, the
            name of a family that ships with one, or the filter itself.
        accept: a prediction is final if its chance is above it; at 1, none is.
        steps: rounds of the answer without the filter; None: one for each position.
        confidence: the order of the other tokens, as in `low-confidence`.

    Raises:
        OptionError: a value is out of range, or the filter is for another length of blocks.
        CheckpointError: the file of the filter is missing or damaged.
    """

    name: ClassVar[str] = "learned"
    reads_block: ClassVar[bool] = True

    filter: UnmaskingFilter | str | Path
    accept: float = 0.96
    steps: int | None = None
    confidence: str = "probability"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ACCEPT.check("accept", self.accept)
        STEPS.check("steps", self.steps)
        if self.confidence not in CONFIDENCES:
            raise OptionError(
                f"confidence is {self.confidence!r}", hint=nearest(self.confidence, CONFIDENCES)
            )
        if not isinstance(self.filter, UnmaskingFilter):
            object.__setattr__(self, "filter", UnmaskingFilter.load(self.filter))

    @property
    def trained(self) -> UnmaskingFilter:
        """The filter, also if the option is a file."""
        assert isinstance(self.filter, UnmaskingFilter)
        return self.filter

    def check(self, info: ModelInfo) -> None:
        """Raise `OptionError` unless the filter is for this model and this length of blocks."""
        if self.block is None:
            raise OptionError(
                "the unmasking filter reads blocks, and block is none",
                hint=f"Use block={self.trained.block}",
            )
        self.trained.check(info.fingerprint, self.block)

    def begin(self, blocks: Sequence[Block]) -> Commits:
        """Return the rule for one answer. Raises `OptionError` for fewer steps than blocks."""
        return _Filtered(self, Quotas(steps_of(blocks, self.steps)))


class _Filtered(Commits):
    """`Learned` for one answer."""

    def __init__(self, rule: Learned, quotas: Quotas) -> None:
        self._rule, self._quotas, self._number = rule, quotas, -1
        self._accepted: dict[int, int] = {}
        """Accepted slots of this round, with the tokens that the filter has judged."""

    def choose(self, view: View) -> IntArray:
        proposals = view.proposals
        if view.number != self._number:
            self._number, self._accepted = view.number, self._judged(view)
        pairs = zip(proposals.slots.tolist(), proposals.tokens.tolist(), strict=True)
        final = np.array([self._accepted.get(slot) == token for slot, token in pairs], np.bool_)
        still_open = set(proposals.slots.tolist())
        committed = sum(slot not in still_open for slot in self._accepted)
        ranked = proposals.ranked(self._rule.confidence)
        first, others = ranked[final[ranked]], ranked[~final[ranked]]
        quota = self._quotas.of(view) - (view.taken - committed)
        return np.concatenate([first, others[: max(quota, 0)]])

    def _judged(self, view: View) -> dict[int, int]:
        """Return the tokens of the open slots of the block that the filter accepts."""
        own = np.ones(self._rule.trained.block)
        own[: len(view.block_confidences)] = view.block_confidences
        chances = self._rule.trained(torch.from_numpy(own).float()[None])[0].numpy()
        proposals, start = view.proposals, view.block.start
        return {
            int(proposals.slots[row]): int(proposals.tokens[row])
            for row in view.inside.tolist()
            if chances[proposals.slots[row] - start] > self._rule.accept and not proposals.last[row]
        }


METHOD = DiffusionMethod(
    name="learned",
    cls=Learned,
    summary="Commits the predictions that a trained filter takes for final",
    paper=Paper("Learning to Parallel: Learn2PD", "2509.25188"),
    needs="a masked denoiser, and a filter trained for it",
    memory="2 (b + b^2) numbers for blocks of b positions",
)
