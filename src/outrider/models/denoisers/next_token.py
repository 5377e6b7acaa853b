"""A denoiser as a model of the next token: one masked position behind the text.

Left-to-right decoding with it is block-wise diffusion decoding with blocks of one position. All
that asks a model for the next token can ask it: scores of texts, searches, servers. It has no cache
of keys and values, since each row of a denoiser depends on the whole text.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from outrider.core.types import IntArray, Prompt, Rows, as_ids
from outrider.models.caches.bookkeeping import CacheBook, Run
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.prefill import start_caches
from outrider.protocols import Cache, Denoiser, Reading, Segment

_NEVER = -1e30
"""Logit of the mask: finite, so that logits can be compared and mixed."""
_TOGETHER = 16
"""Texts that one forward reads at most."""


class TextCache(CacheBook):
    """The text, and the tokens of drafts, without anything that a forward has computed."""

    def _move(self, slots: list[int], start: int) -> None: ...

    def _lay_out(self, kept: Sequence[Run], slots: int) -> None: ...

    def _share(self) -> "TextCache":
        return type(self)(self.context_length)

    def text_to(self, row: int) -> list[int]:
        """Return the text up to speculative row `row` (-1: the end of the text)."""
        path: list[int] = []
        while row >= 0:
            path.append(self._tokens[row])
            row = self._parents[row]
        return [*self._text, *reversed(path)]


class NextToken:
    """A `LanguageModel` that reads a text and one masked position behind it.

    Attributes:
        denoiser: the denoiser.
        info: its properties. A text is not continued as a prompt: the prompt of a denoiser decides
            which positions it writes.
    """

    layered = segmented = chain_decoder = hidden_states = selector = embed = None

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        info = denoiser.info
        self.info = replace(
            info, whole_prompts=True, reads_prompts=False, context_length=info.context_length - 1
        )

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[TextCache]:
        """Create one cache for each prompt. Nothing is read: there is nothing to keep."""
        return start_caches(self, prompts, None, lambda: TextCache(self.info.context_length))

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Return the prediction of the position behind each wanted row."""
        texts: list[IntArray] = []
        counts: list[int] = []
        for segment, rows in zip(segments, want, strict=True):
            cache = narrowed(segment.cache, TextCache, self.info.name)
            cache.feed(segment, rows)
            texts += [as_ids([*cache.text_to(row), self.denoiser.mask_id]) for row in rows.tolist()]
            counts.append(len(rows))
        readings = [Reading(ids=text, want=as_ids([len(text) - 1])) for text in texts]
        read = [
            logits
            for start in range(0, len(readings), _TOGETHER)
            for logits in self.denoiser.read(readings[start : start + _TOGETHER])
        ]
        out: list[Rows] = []
        for count in counts:
            own, read = read[:count], read[count:]
            empty = torch.empty(0, self.info.vocab_size, device=self.info.device)
            logits = torch.cat(own) if own else empty
            logits[:, self.denoiser.mask_id] = _NEVER
            out.append(Rows(logits))
        return out
