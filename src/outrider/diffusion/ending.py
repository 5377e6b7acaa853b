"""Where an answer ends before it is complete: end-of-text prediction of Learn2PD."""

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from outrider.core.types import IntArray
from outrider.diffusion.proposals import Proposals

_SURE = 0.9
"""Probability of an end token that is predicted in two rounds, one after the other."""


@runtime_checkable
class Committed(Protocol):
    """What a round has committed."""

    slots: list[int]
    tokens: list[int]


class Ending:
    """Finds the end of one answer; any rule can use it.

    An answer is cut behind an end token that a round commits, and behind an open slot whose end
    token has a probability of at least 0.9 in two consecutive rounds. It is never cut in front of a
    committed token that is not an end token.
    """

    def __init__(self, end_ids: Collection[int]) -> None:
        self._ends = sorted(end_ids)
        self._before: frozenset[int] = frozenset()

    def cut(self, answer: IntArray, mask_id: int, written: Committed, proposals: Proposals) -> int:
        """Return the new length of the answer.

        Args:
            answer: the answer after the round.
            mask_id: the id of its open slots.
            written: what the round has committed.
            proposals: for the slots that are still open.
        """
        ends = np.isin(answer, self._ends)
        words = np.flatnonzero(~ends & (answer != mask_id))
        least = int(words[-1]) + 1 if len(words) else 0
        is_end = np.isin(proposals.tokens, self._ends) & (proposals.confident >= _SURE)
        now = frozenset(proposals.slots[is_end].tolist())
        both, self._before = now & self._before, now
        accepted = _ends_of(written.slots, written.tokens, self._ends)
        found = [slot for slot in accepted or sorted(both) if slot >= least]
        return min(found) + 1 if found else len(answer)


def _ends_of(slots: Sequence[int], tokens: Sequence[int], ends: Collection[int]) -> list[int]:
    return [slot for slot, token in zip(slots, tokens, strict=True) if token in ends]
