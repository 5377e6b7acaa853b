"""A table that sees: one distribution with images, another without."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from outrider.core.types import ImagePrompt, IntArray, Prompt, Rows
from outrider.models.caches.prefill import start_caches
from outrider.models.tabular import TabularCache, TabularModel
from outrider.protocols import Cache, Segment


class BlankCache(TabularCache):
    """Of a prompt on whose images nothing can be seen."""


class ImageTable(TabularModel):
    """Reads images as three tokens, nothing as one; `null` is its distribution for the latter.

    `batches` notes how many texts each forward since the start has read, `read` what was started.
    """

    def __init__(self, table: Tensor, null: Tensor, **settings: Any) -> None:
        super().__init__(table, **settings)
        self.info = replace(self.info, image_token_ids=frozenset({99}))
        self.null = TabularModel(null)
        self.batches: list[int] = []
        self.read: list[Prompt] = []

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[TabularCache]:
        self.read += prompts
        caches = [self._begun(prompt) for prompt in prompts]
        self.batches.clear()
        return caches

    def _begun(self, prompt: Prompt) -> TabularCache:
        image_prompt = prompt.image_prompt
        blank = image_prompt is not None and image_prompt.blank
        ahead = 0 if image_prompt is None else 1 if blank else 3
        view = Prompt(token_ids=(0,) * ahead + prompt.token_ids)
        kind = BlankCache if blank else TabularCache
        return start_caches(self, [view], None, lambda: kind(self.info.context_length))[0]

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        self.batches.append(len(segments))
        out: list[Rows] = []
        for segment, rows in zip(segments, want, strict=True):
            model = self.null if isinstance(segment.cache, BlankCache) else super()
            found = model.forward([segment], [rows])
            out += [replace(one, chooser=_unsure) for one in found]
        return out


def _unsure(sampler: Any, indices: IntArray) -> None:
    """A short cut to the choices of unmixed rows, which nobody may take for mixed ones."""


def image_table(vocab_size: int = 7, order: int = 2, seed: int = 0) -> ImageTable:
    generator = torch.Generator().manual_seed(seed)
    shape = [vocab_size] * (order + 1)
    table, null = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "12")
    return ImageTable(1.5 * table, 1.5 * null)


def mixed_table(model: ImageTable, scale: float) -> TabularModel:
    """What guidance makes of the two distributions, by the paper's formula."""
    return TabularModel(model.null.table + scale * (model.table - model.null.table))


def image_prompt(*token_ids: int, image: object = "image") -> Prompt:
    part = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
    return Prompt(token_ids=token_ids, image_prompt=ImagePrompt(messages=(part,), images=(image,)))
