"""What the runners of Llama-shaped checkpoints share: who the model is, and its caches."""

from collections.abc import Sequence
from typing import Any

import torch

from outrider.core.types import Piece, Prompt
from outrider.models.caches.borrowed import Borrowed, BorrowedCache, not_lent
from outrider.models.caches.kv_cache import CacheLayout, DecoderCache
from outrider.models.caches.prefill import start_caches
from outrider.models.caches.rearranging import rearrange
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.defaults import end_ids, recommended
from outrider.models.llama.config import DecoderConfig
from outrider.protocols import Cache


class OwnModel:
    """A checkpoint that Outrider runs itself; subclasses add weights and `forward`.

    Attributes:
        name: how errors and reports call it.
        config: its shape.
        fingerprint: changes when the checkpoint changes; the same in every precision.
        end_ids: tokens that end a text.
        generation_defaults: what generation_config.json recommends (`temperature`, ...), as found.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: DecoderConfig,
        *,
        name: str | None,
        cache_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.name = name or checkpoint.path.resolve().name
        self.config = config
        self.fingerprint = checkpoint.fingerprint
        self.end_ids = end_ids(checkpoint.generation, checkpoint.config)
        self.generation_defaults = recommended(checkpoint.generation)
        self._layout = CacheLayout(
            num_layers=config.num_layers,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            context_length=config.context_length,
            dtype=cache_dtype,
            device=device,
        )

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        """Most tokens it can read."""
        return self.config.context_length

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return self.config.num_layers

    @property
    def bytes_per_token(self) -> int:
        """Bytes of cache one token takes."""
        return self._layout.bytes_per_token

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Any]:
        """One cache a prompt, all but its last token read. Raises `ContextError`."""
        old = None if reuse is None else [self._own(cache) for cache in reuse]
        return start_caches(self, prompts, old, self._fresh_cache)  # pyright: ignore[reportArgumentType]

    @property
    def reads_gaps(self) -> bool:
        """True: rotary embeddings and windows go by the position, not by the slot."""
        return True

    @property
    def reads_axes(self) -> bool:
        """Whether a token may stand at several places (`Prompt.axes`)."""
        return self.config.rope.sections is not None

    def rearrange(self, caches: Sequence[Any], texts: Sequence[Sequence[Piece]]) -> None:
        """Make the text of each cache what its pieces spell; see `protocols.Segmented`.

        Raises:
            ContextError: a text does not fit into the window.
            ValueError: kept tokens are not in order, or would have to turn to another position.
        """
        rearrange(self, caches, texts)  # pyright: ignore[reportArgumentType]

    def borrow(self, cache: Cache) -> BorrowedCache:
        """A cache over the committed rows of `cache`; see `models/caches/borrowed.py`.

        Raises:
            StrategyError: another model filled `cache`.
        """
        own = self._own(cache)
        if own is None or isinstance(own, Borrowed):
            raise not_lent(self.name)
        return self._borrowed(own)

    def watch(self, cache: Cache, on: bool) -> None:
        """Whether forwards over `cache` return `Rows.streams` from now on."""
        own = self._own(cache)
        if own is not None:
            own.watched = on

    def _borrowed(self, cache: DecoderCache) -> BorrowedCache:
        return BorrowedCache(cache)

    def _fresh_cache(self) -> DecoderCache:
        return DecoderCache(self._layout)

    def _own(self, cache: Cache | None) -> DecoderCache | None:
        """`cache` if this very model filled it: no two models share a layout."""
        if isinstance(cache, DecoderCache) and cache.layout is self._layout:
            return cache
        return None
