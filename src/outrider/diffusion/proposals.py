"""Tokens that are proposed for open positions, and how sure the model is of them."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.errors import LogitsError, OptionError, nearest
from outrider.core.types import BoolArray, IntArray
from outrider.diffusion.drawing import Drawing
from outrider.sampling import NOT_FINITE, NOTHING_ALLOWED

CONFIDENCES = ("probability", "margin", "entropy", "random", "left")
"""Orders of positions: the probability of the proposed token, the difference of the two best
probabilities, negative entropy, a random order, from left to right."""

SUPPRESSED = ("none", "logit", "confidence")
"""What is done with end tokens: nothing, they are never chosen, or they are committed last."""


@dataclass(slots=True, eq=False)
class Proposals:
    """One token for each open position, from one forward.

    Attributes:
        slots: `[open]`, positions of the answer, ascending.
        tokens: `[open]`.
        logits: `[open, vocab]`, edited; tokens that were refused have -inf.
        norms: `[open]`, log of the sum of the exponentials of the logits before any refusal.
        confident: `[open]`, the probability of each token, before temperature and truncation, among
            the tokens that were not refused. It is 0 for an end token that is committed last.
        last: `[open]`, whether the token is an end token that is committed last.
        drawing: how the tokens were chosen.
        number: the number of the round.
        late: end tokens that are committed last.
    """

    slots: IntArray
    tokens: IntArray
    logits: Float[Tensor, "open vocab"]
    norms: NDArray[np.float64]
    confident: NDArray[np.float64]
    last: BoolArray
    drawing: Drawing
    number: int
    late: Collection[int] = ()

    @classmethod
    def of(
        cls,
        logits: Float[Tensor, "open vocab"],
        slots: IntArray,
        drawing: Drawing,
        number: int,
        *,
        never: Collection[int] = (),
        late: Collection[int] = (),
    ) -> "Proposals":
        """Choose a token for each row.

        Args:
            logits: of the model; they are not changed.
            slots: the position of each row in the answer.
            drawing: how tokens are chosen.
            number: the number of the round.
            never: tokens that are not chosen, such as the mask.
            late: end tokens that are committed last.

        Raises:
            LogitsError: the logits hold NaN or +inf, or no token is allowed in a row.
        """
        if bool((logits.isnan() | (logits == torch.inf)).any()):
            raise LogitsError(NOT_FINITE, hint="The weights or the dtype of the model do not work")
        scores = drawing.edited(logits)
        scores[:, sorted(never)] = -torch.inf
        if not bool((scores > -torch.inf).any(-1).all()):
            raise LogitsError(NOTHING_ALLOWED)
        tokens = drawing.choose(scores, slots, number)
        norms = torch.logsumexp(scores, -1)
        found = cls(
            slots,
            tokens.numpy(),
            scores,
            norms.double().cpu().numpy(),
            np.zeros(len(slots)),
            np.zeros(len(slots), np.bool_),
            drawing,
            number,
            late,
        )
        chosen = scores.gather(1, tokens[:, None].to(scores.device))[:, 0]
        found.confident = (chosen - norms).double().exp().cpu().numpy()
        found.last = np.isin(found.tokens, sorted(late))
        found.confident[found.last] = 0.0
        return found

    def __len__(self) -> int:
        return len(self.slots)

    def logprob(self, row: int, token: int | None = None) -> float:
        """Return the log-probability of a token in a row, before any refusal; without a token, that
        of the proposed one."""
        token = int(self.tokens[row]) if token is None else token
        return float(self.logits[row, token]) - float(self.norms[row])

    def refuse(self, row: int) -> bool:
        """Replace the token of a row by the next best one; return whether there is one."""
        scores = self.logits[row : row + 1]
        scores[0, int(self.tokens[row])] = -torch.inf
        if not bool((scores > -torch.inf).any()):
            return False
        token = int(self.drawing.choose(scores, self.slots[row : row + 1], self.number)[0])
        self.tokens[row] = token
        self.last[row] = token in self.late
        chosen = float(scores[0, token]) - float(torch.logsumexp(scores[0], -1))
        self.confident[row] = 0.0 if self.last[row] else np.exp(chosen)
        return True

    def without(self, rows: IntArray) -> "Proposals":
        """Return the proposals of all other rows."""
        kept = np.setdiff1d(np.arange(len(self)), rows)
        return Proposals(
            self.slots[kept],
            self.tokens[kept],
            self.logits[torch.from_numpy(kept).to(self.logits.device)],
            self.norms[kept],
            self.confident[kept],
            self.last[kept],
            self.drawing,
            self.number,
            self.late,
        )

    def probabilities(self) -> Float[Tensor, "open vocab"]:
        """Return the probabilities of all tokens."""
        return torch.softmax(self.logits, -1)

    def entropies(self) -> NDArray[np.float64]:
        """Return the entropy of each row in nats."""
        logp = torch.log_softmax(self.logits, -1)
        return -torch.nan_to_num(logp.exp() * logp).sum(-1).double().cpu().numpy()

    def ranked(self, confidence: str = "probability") -> IntArray:
        """Return the rows, the surest first; of equal ones the leftmost, as in a stable sort.

        Raises:
            OptionError: there is no such confidence.
        """
        if confidence == "probability":
            scores = self.confident.copy()
        elif confidence == "margin":
            best = self.probabilities().topk(2, -1).values.double().cpu().numpy()
            scores = best[:, 0] - best[:, 1]
        elif confidence == "entropy":
            scores = -self.entropies()
        elif confidence == "random":
            scores = np.array([self.drawing.place(slot) for slot in self.slots.tolist()])
        elif confidence == "left":
            scores = -self.slots.astype(np.float64)
        else:
            raise OptionError(
                f"confidence is {confidence!r}", hint=nearest(confidence, CONFIDENCES)
            )
        scores[self.last] = -np.inf
        return np.argsort(-scores, kind="stable")
