"""The record of a passage that also lists the most probable tokens in the place of each token."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from outrider.core.types import IntArray, Rows, Verdict
from outrider.decoding import Generation, TokenLogprob

Best = tuple[tuple[int, float], ...]
"""Tokens with their log-probabilities, the most probable first."""


@dataclass(slots=True)
class Listing(Generation):
    """A generation that lists the best tokens: after penalties and bans, before temperature and
    warps. The rows are those that chose the tokens, so nothing more is computed by the model.

    Attributes:
        top: how many tokens are listed; banned ones are not.
        best: the list of each token.
    """

    top: int = 1
    best: list[Best] = field(default_factory=list[Best])

    def advance(
        self,
        verdict: Verdict,
        rows: Rows | None,
        logprobs: Sequence[TokenLogprob] | None = None,
    ) -> IntArray:
        """Append the emitted tokens, as any generation does, and their lists."""
        before = len(self.output)
        added = Generation.advance(self, verdict, rows, logprobs)
        assert rows is not None  # passages are written from left to right
        for number, parent in zip(range(len(added)), (-1, *verdict.path), strict=False):
            generated = self.output[: before + number]
            scores = self.request.sampler.process(rows.logits[parent + 1], generated)
            wide = scores if scores.dtype == torch.float64 else scores.float()
            values, ids = torch.log_softmax(wide, -1).topk(min(self.top, wide.numel()))
            listed = zip(ids.tolist(), values.tolist(), strict=True)
            self.best.append(tuple(one for one in listed if one[1] > float("-inf")))
        return added
