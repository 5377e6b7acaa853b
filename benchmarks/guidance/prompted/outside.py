"""Outside language models for captions of drawn scenes, in the vocabulary of `tiny-vision`."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.captioning.scenes.phrases import Detail, Manner, caption
from outrider.captioning.scenes.scenes import Scenes
from outrider.core.types import IntArray, Prompt, Rows
from outrider.inputs.given import TextCodec
from outrider.models.tabular import TabularModel
from outrider.models.wrappers.passing import ModelWrapper
from outrider.protocols import Cache, LanguageModel, Segment

LEARNT_SEED = 4077
"""Of the scenes whose sentences the tables have counted; no image of them is used."""


class Padded(ModelWrapper):
    """A model of fewer tokens: those beyond its vocabulary are impossible.

    Args:
        inner: the model.
        vocab_size: of the target.
    """

    def __init__(self, inner: LanguageModel, vocab_size: int) -> None:
        super().__init__(inner, replace(inner.info, vocab_size=vocab_size))
        self.chain_decoder = None
        self._more = vocab_size - inner.info.vocab_size

    def start(self, prompts: Sequence[Prompt], reuse: Any = None) -> list[Cache]:
        """Read prompts."""
        return list(self.inner.start(prompts, reuse))

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read segments."""
        found = self.inner.forward(segments, want)
        return [self._wider(rows) for rows in found]

    def _wider(self, rows: Rows) -> Rows:
        logits = torch.nn.functional.pad(rows.logits, (0, self._more), value=-torch.inf)
        return Rows(logits)


class Counts(TabularModel):
    """Counts of runs of tokens, each order smoothed by the next lower one.

    Args:
        texts: of tokens, each with a first token that begins it and an end token.
        vocab_size: of the target.
        order: how many tokens the next one depends on.
        weight: of the next lower order, in counts.
    """

    def __init__(
        self, texts: Sequence[Sequence[int]], vocab_size: int, *, order: int, weight: float = 0.5
    ) -> None:
        super().__init__(torch.zeros(vocab_size, dtype=torch.float64), name=f"counts-{order}")
        self.info = replace(self.info, end_ids=tuple({text[-1] for text in texts}))
        self.order = order
        self._weight = weight
        self._after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for text in texts:
            for end in range(1, len(text)):
                for length in range(min(order, end) + 1):
                    self._after[tuple(text[end - length : end])][text[end]] += 1

    def logits_after(self, text: Sequence[int]) -> Float[Tensor, " vocab"]:
        """Return the log-probabilities of the token after a text."""
        size = self.info.vocab_size
        probs = torch.full((size,), 1.0 / size, dtype=torch.float64)
        for length in range(self.order + 1):
            if length > len(text):
                break
            counts = self._after.get(tuple(text[len(text) - length :]))
            if counts is None:
                break
            total = counts.total() + self._weight
            probs *= self._weight / total
            ids = torch.tensor(list(counts))
            probs[ids] += torch.tensor(list(counts.values()), dtype=torch.float64) / total
        return probs.log()


def learnt(
    codec: TextCodec, first: int, end: int, count: int, manner: Manner | None
) -> list[list[int]]:
    """Return sentences about scenes as tokens; without a manner each tells all there is."""
    scenes, random = Scenes(seed=LEARNT_SEED), Random(LEARNT_SEED)
    start = len(codec.encode(""))
    found: list[list[int]] = []
    for number in range(count):
        detail = Detail.EXACT if manner is None else manner.detail(random)
        text = caption(scenes.truth(number), detail, random)
        found.append([first, *codec.encode(text)[start:], end])
    return found
