"""Differentiable cache augmentation: a coprocessor writes latents into the cache behind a prompt.

Liu et al. 2024 (arXiv 2412.17747). The coprocessor is the model itself with an adapter. It reads
trained soft tokens over the cache that the frozen model has filled; its last states, the latents,
are appended to this cache as further rows, and the frozen model goes on as usual. The text
*differs* from that of the model without latents, and depends on where the prompt ends.

The last token of a prompt is read after the latents, together with the first draft: a cache always
ends with a token that can be read again. The coprocessor therefore reads the prompt without it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import ContextError, StrategyError
from outrider.core.types import NO_IDS, Exactness, IntArray, Prompt, Rows, as_ids
from outrider.models.caches.bookkeeping import Run
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.prefill import check_prompt
from outrider.models.llama.base import OwnModel
from outrider.models.wrappers.passing import ModelWrapper
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.protocols.method import Method, Paper


class AugmentedModel(ModelWrapper):
    """A `LanguageModel` that writes latents into its cache when it has read a prompt.

    Its caches are those of `model`. Their text holds `filler` in the places of the latents. Drafts
    are verified against the augmented cache and do not change the text. A later prompt reuses the
    rows before the latents only.

    Args:
        model: the frozen model.
        coprocessor: the same model with its adapter; it reads the caches of `model`.
        soft: `[latents, hidden]` the embeddings that the coprocessor reads; without any, the
            wrapper is `model` itself.
        scale: the factor of the coprocessor's last states in latents.

    Its `exactness` is `lossy`: the text differs from that of `model`.

    Raises:
        StrategyError: Outrider does not run one of the models itself, or their shapes differ.
        ContextError: the latents fill the window.
    """

    def __init__(
        self,
        model: LanguageModel,
        coprocessor: LanguageModel,
        soft: Float[Tensor, "latents hidden"],
        scale: float = 1.0,
    ) -> None:
        info, count = model.info, len(soft)
        self.soft, self.scale = soft, scale
        self.filler = info.end_ids[0] if info.end_ids else 0
        self._coprocessor: OwnModel | None = None
        if not count:
            super().__init__(model, info)
            return
        if not isinstance(model, OwnModel) or not isinstance(coprocessor, OwnModel):
            name = info.name if not isinstance(model, OwnModel) else coprocessor.info.name
            raise StrategyError(
                f"{name} does not run in Outrider's own runners, whose caches a coprocessor reads",
                hint="Use a Llama-shaped text model, or leave out the coprocessor",
            )
        if soft.shape[1] != model.width:
            raise StrategyError(
                f"the soft tokens have {soft.shape[1]} numbers each, {info.name} reads "
                f"{model.width}",
                hint="Train a coprocessor for this model",
            )
        if info.context_length <= count + 1:
            raise ContextError(
                f"{count} latents leave no place in the window of {info.name}, which has "
                f"{info.context_length}"
            )
        self._coprocessor = coprocessor.reading(model)
        info = replace(
            info,
            context_length=info.context_length - count,
            context_reason=f"{info.context_reason}; {count} places are for latents".lstrip("; "),
            find_fingerprint=self._fingerprint,
            exactness=Exactness.LOSSY,
            whole_prompts=True,
        )
        super().__init__(model, info)
        self.segmented = None  # pieces name tokens of the text, and latents are none

    def _fingerprint(self) -> str:
        assert self._coprocessor is not None
        digest = hashlib.sha256(self.soft.float().cpu().numpy().tobytes())
        both = (self.inner.info.fingerprint, self._coprocessor.info.fingerprint, self.scale)
        digest.update(repr(both).encode())
        return digest.hexdigest()[:16]

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> Sequence[Cache]:
        """Read the prompts and append their latents. Raises `ContextError`.

        Equal prompts (the same object) are read and augmented once.
        """
        if self._coprocessor is None:
            return self.inner.start(prompts, reuse)
        for prompt in prompts:
            check_prompt(self, prompt)
        first = {id(prompt): place for place, prompt in reversed([*enumerate(prompts)])}
        places = sorted(first.values())
        old = None if reuse is None else [reuse[place] for place in places]
        found = self.inner.start([prompts[place] for place in places], old)
        name = self.info.name
        caches = dict(zip(places, (narrowed(c, DecoderCache, name) for c in found), strict=True))
        self._augment(self._coprocessor, list(caches.values()))
        own = [first[id(prompt)] for prompt in prompts]
        return [
            caches[source] if source == place else caches[source].fork()
            for place, source in enumerate(own)
        ]

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments with the frozen model, over latents and all."""
        return self.inner.forward(segments, want)

    def _augment(self, coprocessor: OwnModel, caches: Sequence[DecoderCache]) -> None:
        """Put latents between the rows of each cache and its pending token."""
        lasts = [_without_last(cache) for cache in caches]
        latents = self._latents(coprocessor, caches)
        for cache, own in zip(caches, latents, strict=True):
            cache.extend([self.filler] * len(own), embeddings=own)
        self.inner.forward([Segment(cache, NO_IDS) for cache in caches], [NO_IDS] * len(caches))
        for cache, (token, place, sound) in zip(caches, lasts, strict=True):
            cache.settle()
            cache.extend([token], as_ids([place + len(self.soft)]))
            cache.sound = sound

    def _latents(
        self, coprocessor: OwnModel, caches: Sequence[DecoderCache]
    ) -> list[Float[Tensor, "latents hidden"]]:
        """Return the coprocessor's last states over these caches, which stay as they are."""
        count = len(self.soft)
        ids, want = -1 - np.arange(count), np.arange(count)
        segments = [Segment(coprocessor.borrow(c), ids, prompts=self.soft) for c in caches]
        found: list[Tensor] = []
        for rows in coprocessor.forward(segments, [want] * len(caches)):
            assert rows.hidden is not None  # Outrider's own runners return it
            found.append(rows.hidden * self.scale)
        return found


def _without_last(cache: DecoderCache) -> tuple[int, int, int]:
    """Take the pending token from the end of a text; return it, its position, and the number of
    rows that a later prompt may reuse."""
    read, token = cache.length, cache.text[-1]
    place, sound = cache.places.at(read), cache.sound
    cache.take_apart([Run(0, read, 0)] if read else [], read)
    return token, place, read if sound is None else min(sound, read)


METHOD = Method(
    name="augmented",
    cls=AugmentedModel,
    summary="a coprocessor writes latents behind the prompt: --coprocessor, load(coprocessor=...)",
    paper=Paper("Differentiable cache augmentation", "2412.17747"),
    promise=Exactness.LOSSY,
    needs="a coprocessor of the target: outrider train coprocessor",
    memory="the adapted weights, a second copy of the target's",
)
