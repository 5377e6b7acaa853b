"""ETE: commits sure tokens, and one uncertain token on purpose where few are sure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from outrider.core.checks import Range, check_ranges
from outrider.core.types import IntArray
from outrider.diffusion.record import DiffusionMethod
from outrider.diffusion.rule import Block, Commits, Diffusion, View
from outrider.protocols.method import Paper

_RANGES: Mapping[str, Range] = {
    "threshold": Range(0.0, hint="Give a probability, such as 0.9"),
    "window": Range(1, whole=True, hint="Give blocks, such as 2"),
    "branches": Range(0, whole=True, hint="Give candidates, such as 4; 0 for no exploration"),
    "least": Range(0, whole=True, hint="Give a number of tokens, such as 1"),
    "gain": Range(0.0, hint="Give the worth of a token in nats, such as 0.1"),
    "mass": Range(0.0, 1.0, hint="Give a probability, such as 0.6"),
    "floor": Range(0.0, 1.0, hint="Give a probability, such as 0.1"),
}


@dataclass(frozen=True, kw_only=True)
class Explore(Diffusion):
    """Commits all tokens of at least `threshold` if there are more than `least` of them. Otherwise
    it tries the best tokens of the position of the block with the highest entropy, in one further
    forward, and commits the one that is likely and makes many others sure, with these others.

    The paper does not publish its rule of exploration. This one is our own.

    Attributes:
        threshold: a probability.
        window: blocks in which sure tokens are committed; the first one is the active block.
        branches: tokens that are tried; 1: the best token of the position is committed without a
            further forward; 0: no exploration.
        least: no exploration if there are more sure tokens than this.
        gain: what a token that becomes sure is worth, in nats.
        mass: the tried tokens have at least this probability together.
        floor: a token of a smaller probability is not tried, unless it is the best one.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = "explore"

    threshold: float = 0.9
    window: int = 2
    branches: int = 4
    least: int = 1
    gain: float = 0.1
    mass: float = 0.6
    floor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, _RANGES)

    @property
    def reach(self) -> int:
        """Blocks of the window."""
        return self.window

    def begin(self, blocks: Sequence[Block]) -> Commits:
        """Return the rule for one answer."""
        return _Exploring(self)


class _Exploring(Commits):
    """`Explore` for one answer; it needs no state."""

    def __init__(self, rule: Explore) -> None:
        self._rule = rule

    def explore(self, view: View) -> None:
        rule, proposals = self._rule, view.proposals
        surest = int((proposals.confident >= rule.threshold).sum())
        if not rule.branches or surest > rule.least or len(proposals) == 1:
            return  # a single slot has no others to make sure
        row = self._uncertain(view)
        if row is None:
            return
        slot = int(proposals.slots[row])
        tried = [token for token in self._candidates(view, row) if view.allows(slot, token)]
        if not tried:
            return
        logprobs = [proposals.logprob(row, token) for token in tried]
        best = 0
        if len(tried) > 1:
            after = view.branches(slot, tried)
            worth = [
                logprob + rule.gain * int((one.confident >= rule.threshold).sum())
                for logprob, one in zip(logprobs, after, strict=True)
            ]
            best = int(np.argmax(worth))
            view.proposals = after[best]
        else:
            view.proposals = proposals.without(np.arange(len(proposals)))
        view.commit(slot, tried[best], logprobs[best])

    def choose(self, view: View) -> IntArray:
        proposals = view.proposals
        ranked = proposals.ranked()
        found = ranked[: int((proposals.confident[ranked] >= self._rule.threshold).sum())]
        if len(found) or view.taken:
            return found
        return ranked[np.isin(ranked, view.inside)][:1]

    def _uncertain(self, view: View) -> int | None:
        """Return the row of the active block with the highest entropy whose best tokens have enough
        probability together; None if there is none."""
        rows = view.inside
        probs, number = view.proposals.probabilities(), self._rule.branches
        best = probs.topk(min(number, probs.shape[-1]), -1).values.sum(-1).double().cpu().numpy()
        rows = rows[best[rows] >= self._rule.mass]
        if not len(rows):
            return None
        return int(rows[view.proposals.entropies()[rows].argmax()])

    def _candidates(self, view: View, row: int) -> list[int]:
        """Return the tokens to try at a row, the best first."""
        probs = view.proposals.probabilities()[row]
        best = probs.topk(min(self._rule.branches, len(probs)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            token
            for place, (token, prob) in enumerate(pairs)
            if prob > 0.0
            and (place == 0 or prob >= self._rule.floor)
            and token not in view.proposals.late
        ]


METHOD = DiffusionMethod(
    name="explore",
    cls=Explore,
    summary="Commits sure tokens, and an uncertain one that makes others sure",
    paper=Paper("From Bits to Rounds", "2511.21103"),
)
