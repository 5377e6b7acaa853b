"""The commits of one round, each checked by the constraint of the request."""

import numpy as np

from outrider.core.types import IntArray
from outrider.diffusion.completing import MOST_REFUSALS, Completable
from outrider.diffusion.rule import Commits, View


class Written:
    """What one round has committed so far.

    Args:
        answer: the answer, which is changed in place.
        mask_id: the id of open slots.
        constraint: what answers are allowed; None: all.

    Attributes:
        slots: the committed slots, in order.
        tokens: their tokens.
        logprobs: log-probabilities of these when they were committed.
        refused: tokens that the constraint has refused.
        completed: tokens of the ending that the constraint wrote.
    """

    def __init__(self, answer: IntArray, mask_id: int, constraint: Completable | None) -> None:
        self._answer, self._mask_id, self._constraint = answer, mask_id, constraint
        self.slots: list[int] = []
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.refused = 0
        self.completed = 0

    @property
    def exhausted(self) -> bool:
        """Whether no further refusal is tried."""
        return self.refused >= MOST_REFUSALS

    def allows(self, slot: int, token: int) -> bool:
        """Whether the constraint allows the token at the slot; a refusal is counted."""
        if self._constraint is None:
            return True
        answer = self._answer.copy()
        answer[slot] = token
        allowed = self._constraint.allows(answer)
        self.refused += not allowed
        return allowed

    def commit(self, slot: int, token: int, logprob: float) -> None:
        """Write a token.

        Raises:
            ValueError: the slot is not open, or the token is the mask.
        """
        if self._answer[slot] != self._mask_id or token == self._mask_id:
            raise ValueError(f"token {token} cannot be committed at slot {slot}")
        self._answer[slot] = token
        self.slots.append(slot)
        self.tokens.append(token)
        self.logprobs.append(logprob)


def commit_chosen(commits: Commits, view: View, written: Written) -> bool:
    """Commit what the rule chooses, one token after the other, and at least one.

    A refused token gives way to the next best one of its slot, and the rule chooses again. When
    refusals run out, the round ends.

    Returns:
        Whether refusals ran out before anything was committed.
    """
    while len(view.proposals):
        view.taken = len(written.slots)
        chosen = commits.choose(view)
        if not len(chosen) and not written.slots:
            chosen = view.proposals.ranked()[:1]
        proposals, refused = view.proposals, -1
        for row in chosen.tolist():
            slot, token = int(proposals.slots[row]), int(proposals.tokens[row])
            if not written.allows(slot, token):
                refused = row
                break
            written.commit(slot, token, proposals.logprob(row))
        ran_out = refused >= 0 and (written.exhausted or not proposals.refuse(refused))
        gone = np.flatnonzero(np.isin(proposals.slots, written.slots))
        view.proposals = proposals.without(gone) if len(gone) else proposals
        if refused < 0 or ran_out:
            return not written.slots
    return False
