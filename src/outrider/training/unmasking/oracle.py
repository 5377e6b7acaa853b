"""What a perfect filter would commit: predictions against the model's own final answer.

The model writes an answer, one token a round, the surest one first. It then writes it again, and
each round commits exactly the predictions that equal the first answer (Learn2PD, arXiv 2509.25188).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.protocols.denoiser import Denoiser, Reading


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the filter sees of one block in one round, and what it should say.

    Positions behind the end of a short last block have the confidence 1 and are in neither mask.

    Attributes:
        confidences: `[block]`, the probability of the most likely token of each position.
        correct: whether that token is the one of the answer.
        within: positions of the answer.
        masked: those of them that hold no token yet.
    """

    confidences: Float[Tensor, " block"]
    correct: Bool[Tensor, " block"]
    within: Bool[Tensor, " block"]
    masked: Bool[Tensor, " block"]


class _Text:
    """A prompt and an answer that is written."""

    def __init__(self, model: Denoiser, prompt: IntArray, slots: int) -> None:
        self.model, self.begin = model, len(prompt)
        self.ids = np.concatenate([prompt, np.full(slots, model.mask_id, dtype=np.int64)])

    @property
    def answer(self) -> IntArray:
        """The answer, with masks."""
        return self.ids[self.begin :]

    def predict(self, start: int, stop: int) -> tuple[IntArray, Float[Tensor, " slots"]]:
        """Return the most likely tokens of these slots, and their probabilities."""
        want = np.arange(self.begin + start, self.begin + stop)
        [logits] = self.model.read([Reading(ids=self.ids, want=want)])
        sure, tokens = logits.float().softmax(-1).max(-1)
        return tokens.cpu().numpy(), sure.cpu()

    def open_in(self, start: int, stop: int) -> IntArray:
        """Return the slots of a block without a token."""
        return start + np.flatnonzero(self.answer[start:stop] == self.model.mask_id)


def blocks(slots: int, block: int) -> list[tuple[int, int]]:
    """Return start and stop of each block; the last one may be shorter."""
    return [(start, min(start + block, slots)) for start in range(0, slots, block)]


def written(
    model: Denoiser, prompt: IntArray, slots: int, block: int, sure: float = 1.0
) -> IntArray:
    """Return the model's answer: block after block, one token a round, the surest one first.

    Of equally sure slots the leftmost one is written first. A round also writes all tokens whose
    probability is above `sure`; at 1, there are none.
    """
    text = _Text(model, prompt, slots)
    for start, stop in blocks(slots, block):
        while len(left := text.open_in(start, stop)):
            tokens, chances = text.predict(start, stop)
            own = chances[torch.from_numpy(left - start)]
            chosen = (own > sure).numpy()
            chosen[int(own.argmax())] = True
            text.answer[left[chosen]] = tokens[left[chosen] - start]
    return text.answer.copy()


def replayed(model: Denoiser, prompt: IntArray, answer: IntArray, block: int) -> list[Seen]:
    """Write an answer again, each round with all predictions that equal it; return all rounds.

    A round whose predictions are all wrong, or those of the round before, would repeat: the block
    is then filled with the answer. So there are at most as many rounds as slots.
    """
    text, found = _Text(model, prompt, len(answer)), list[Seen]()
    for start, stop in blocks(len(answer), block):
        before: IntArray | None = None
        while len(left := text.open_in(start, stop)):
            tokens, sure = text.predict(start, stop)
            correct = tokens == answer[start:stop]
            found.append(_seen(sure, correct, left - start, block))
            right = left[correct[left - start]]
            repeated = before is not None and np.array_equal(tokens, before)
            chosen = right if len(right) and not repeated else left
            text.answer[chosen] = answer[chosen]
            before = tokens
    assert np.array_equal(text.answer, answer)
    return found


def _seen(sure: Float[Tensor, " slots"], correct: np.ndarray, left: IntArray, block: int) -> Seen:
    """Extend what one round has shown to the length of a block."""
    size = len(sure)
    confidences, within = torch.ones(block), torch.arange(block) < size
    confidences[:size] = sure
    right, masked = torch.zeros(2, block, dtype=torch.bool)
    right[:size] = torch.from_numpy(correct)
    masked[torch.from_numpy(left)] = True
    return Seen(confidences, right, within, masked)
