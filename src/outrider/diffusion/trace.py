"""What each round of a text committed, and what it cost."""

from dataclasses import dataclass, field
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """One round.

    Attributes:
        slots: the committed positions of the answer, in the order in which they were committed.
        tokens: their tokens.
        logprobs: natural logarithm of the probability of each token when it was committed, under
            the model, before temperature and truncation.
        forwards: forwards of the network.
        rows: rows that they computed, of all branches.
        seconds: time of the round.
        refused: tokens that a constraint refused.
        completed: tokens of the ending that a constraint wrote; they have no probability.
    """

    slots: IntArray
    tokens: IntArray
    logprobs: NDArray[np.float64]
    forwards: int
    rows: int
    seconds: float
    refused: int = 0
    completed: int = 0

    @property
    def probs(self) -> NDArray[np.float64]:
        """The probability of each token when it was committed."""
        return np.exp(self.logprobs)

    @property
    def bits(self) -> float:
        """Information of the round: the sum of -log2 of the probabilities."""
        return float(-self.logprobs.sum() / np.log(2.0)) + 0.0

    def most_bits(self, threshold: float) -> float:
        """Return the most bits that a round of the threshold rule carries:
        `n log2(1 / threshold) + log2(1 / p)`, where n is the number of tokens of at least that
        probability and p is the probability of a token that was committed because none was.

        Source: "From Bits to Rounds", arXiv 2511.21103.

        Raises:
            ValueError: the threshold is 0, which bounds nothing.
        """
        sure = self.probs >= threshold
        others = float(-self.logprobs[~sure].sum() / np.log(2.0))
        return others + (int(sure.sum()) * -log2(threshold) if sure.any() else 0.0)


@dataclass(slots=True)
class Trace:
    """The rounds of one text.

    Attributes:
        rounds: in order.
        forwards_before: forwards before the first round, such as that of a prompt that is stored.
        rows_before: rows that they computed.
    """

    rounds: list[Round] = field(default_factory=list[Round])
    forwards_before: int = 0
    rows_before: int = 0

    def __len__(self) -> int:
        return len(self.rounds)

    @property
    def forwards(self) -> int:
        """Forwards of the network (NFE)."""
        return self.forwards_before + sum(one.forwards for one in self.rounds)

    @property
    def rows(self) -> int:
        """Rows that the forwards computed, of all branches: branches are not free on a device that
        is limited by arithmetic."""
        return self.rows_before + sum(one.rows for one in self.rounds)

    @property
    def seconds(self) -> float:
        """Time of all rounds."""
        return sum(one.seconds for one in self.rounds)

    @property
    def tokens(self) -> int:
        """Committed tokens, without those of an ending that a constraint wrote."""
        return sum(len(one.slots) for one in self.rounds)

    @property
    def bits(self) -> float:
        """Information of the text: the sum over all rounds."""
        return sum(one.bits for one in self.rounds)

    @property
    def slots(self) -> list[int]:
        """The committed positions in the order in which they were committed."""
        return [slot for one in self.rounds for slot in one.slots.tolist()]

    def least_rounds(self, most_bits: float | None = None) -> int:
        """Return the bound `I / B` for the number of rounds, rounded up.

        Args:
            most_bits: the most bits that any round may carry; None: the most that one did.

        Source: "From Bits to Rounds", arXiv 2511.21103.
        """
        most = (
            max((one.bits for one in self.rounds), default=0.0) if most_bits is None else most_bits
        )
        if most <= 0.0:
            return 0 if self.bits <= 0.0 else len(self.rounds)
        return ceil(self.bits / most * (1.0 - 1e-12))
