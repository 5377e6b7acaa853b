"""Shared parts of the runners of Llama-shaped checkpoints: model description and caches."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError, StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import Exactness, IntArray, Piece, Prompt, Rows
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.borrowed import Borrowed, BorrowedCache, not_lent
from outrider.models.caches.eviction.cache import CompressedCache, Compression
from outrider.models.caches.eviction.policy import UNBOUNDED, KvPolicy, Shape
from outrider.models.caches.kv_cache import CacheLayout, DecoderCache
from outrider.models.caches.prefill import start_caches
from outrider.models.caches.rearranging import rearrange
from outrider.models.caches.watching import check_states, not_kept, watch
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.defaults import end_ids, recommended
from outrider.models.checkpoints.window import read_window
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.exits import read_exits
from outrider.protocols import (
    Cache,
    ChainDecoder,
    HiddenStates,
    LanguageModel,
    Layered,
    ModelInfo,
    Segment,
    Segmented,
)
from outrider.protocols.masks import read_mask

M = TypeVar("M", bound="OwnModel")

_SHAPE = ("num_layers", "num_kv_heads", "head_dim", "context_length", "device")
"""Fields of a layout that two models must share to read the same caches."""


def cache_layout(
    config: DecoderConfig, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> CacheLayout:
    """Return the shape of the caches of a decoder."""
    return CacheLayout(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        context_length=config.context_length,
        dtype=dtype,
        device=torch.device(device),
    )


def cache_shape(config: DecoderConfig, find_fingerprint: Callable[[], str]) -> Shape:
    """Return what policies know of the caches of a decoder with this fingerprint."""
    return Shape(
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        reads_all=tuple(window is None for window in config.windows),
        rotary=config.rotary,
        cap=config.scales.attention_cap or 0,
        context_length=config.context_length,
        find_fingerprint=find_fingerprint,
    )


class OwnModel:
    """A checkpoint that Outrider runs itself; subclasses add weights and `forward`.

    Attributes:
        config: shape of the decoder.
        info: description of the model; the fingerprint is that of the checkpoint, equal in every
            precision.
    """

    selector = None

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: DecoderConfig,
        *,
        name: str | None,
        dtype: torch.dtype,
        cache_dtype: torch.dtype,
        device: torch.device,
        num_parameters: int,
        weight_bytes: int,
    ) -> None:
        self.config = config
        self._layout = layout = cache_layout(config, cache_dtype, device)
        fingerprint = checkpoint.fingerprint
        self.info = ModelInfo(
            name=name or checkpoint.path.resolve().name,
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            context_reason=read_window(checkpoint.config).reason,
            find_fingerprint=lambda: fingerprint,
            find_bytes_per_token=lambda: layout.bytes_per_token,
            end_ids=end_ids(checkpoint.generation, checkpoint.config),
            generation_defaults=recommended(checkpoint.generation),
            reads_axes=config.rope.sections is not None,
            reads_prompts=True,
            device=device,
            dtype=dtype,
            num_parameters=num_parameters,
            weight_bytes=weight_bytes,
            exits=read_exits(checkpoint.path),
            mask=read_mask(checkpoint.path, config.hidden_size),
        )

    # -- capabilities -----------------------------------------------------------------------

    @property
    def layered(self) -> Layered:
        """The model itself: it can run a subset of its layers."""
        return self

    @property
    def segmented(self) -> Segmented | None:
        """The model itself: it can rearrange its caches, unless a policy drops rows of them."""
        return self if self._compression is None else None

    @property
    def hidden_states(self) -> HiddenStates:
        """The model itself: it can return hidden states."""
        return self

    @property
    def chain_decoder(self) -> ChainDecoder | None:
        """None: a chain takes one forward for each token."""
        return None

    @property
    def num_layers(self) -> int:
        """Number of layers of the full model."""
        return self.config.num_layers

    @property
    def width(self) -> int:
        """Size of the hidden state of one row."""
        return self.config.hidden_size

    @property
    def reads_gaps(self) -> bool:
        """True: rotary embeddings and windows use positions, not slots."""
        return True

    @abstractmethod
    def embed(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """Return the input embeddings of these ids."""

    @abstractmethod
    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments in one pass; `hidden` is the final normed state of the requested rows.

        Raises:
            ContextError: a token would lie beyond the context window.
        """

    @abstractmethod
    def subset(self, layers: LayerSet) -> LanguageModel:
        """Return the model made of `layers`: it shares the weights and the kind of cache."""

    @abstractmethod
    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Apply the final norm and the head to residual streams."""

    @abstractmethod
    def head_rows(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens hidden"]:
        """Return the rows of the output head for these tokens, in float32."""

    # -- caches -----------------------------------------------------------------------------

    _compression: Compression | None = None

    def under(self: M, policy: KvPolicy) -> M:
        """Return the model with caches under a policy (`models/caches/eviction`); it shares the
        weights.

        Raises:
            OptionError: the policy does not fit the model.
        """
        config, other = self.config, copy(self)
        shape = cache_shape(config, lambda: self.info.fingerprint)
        policy.begin(shape)  # for its checks
        rope = replace(config.rope, amplitude=1.0)  # keys that are moved have their length already
        other._compression = Compression(policy=policy, shape=shape, angles=rope.turns)
        longest = UNBOUNDED if policy.moves else config.context_length
        other._layout = layout = replace(self._layout, context_length=longest)
        other.info = replace(
            self.info,
            context_length=longest,
            whole_prompts=not policy.reads_texts,
            exactness=Exactness.LOSSY,
            kv_policy=str(policy),
            find_bytes_per_token=lambda: layout.bytes_per_token,
        )
        return other

    def _read_to_points(self, caches: Sequence[DecoderCache]) -> None:
        """Read pending tokens up to the points at which policies act, in forwards of their own."""
        if self._compression is None:
            return
        while True:
            parts = [
                (c, part) for c in caches if isinstance(c, CompressedCache) and (part := c.part())
            ]
            if not parts:
                return
            self._read_parts([feed for _, feed in parts], [cache for cache, _ in parts])
            for cache, _ in parts:
                cache.advance()

    @abstractmethod
    def _read_parts(self, feeds: Sequence[Feed], caches: Sequence[CompressedCache]) -> None:
        """Read rows of which nothing is returned."""

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[DecoderCache]:
        """Create one cache for each prompt and read all but the prompt's last token.

        Raises `ContextError`.
        """
        old = None if reuse is None else [self._own(cache) for cache in reuse]
        return start_caches(self, prompts, old, self._fresh_cache)

    def rearrange(self, caches: Sequence[Cache], texts: Sequence[Sequence[Piece]]) -> None:
        """Rearrange each cache so that its text equals its pieces; see `protocols.Segmented`.

        Raises:
            ContextError: a text does not fit into the window.
            ValueError: kept tokens are not in order, or would need another position.
        """
        rearrange(self, caches, texts)

    def borrow(self, cache: Cache) -> BorrowedCache:
        """Create a cache over the committed rows of `cache`; see `models/caches/borrowed.py`.

        Raises:
            StrategyError: another model filled `cache`.
        """
        own = self._own(cache)
        if own is None or isinstance(own, Borrowed):
            raise not_lent(self.info.name)
        return self._borrowed(own)

    def watch(self, cache: Cache, layers: Sequence[int] | None) -> None:
        """Choose the layers of `Rows.states` of `cache`; see `protocols.HiddenStates`."""
        watch(self._own(cache), layers, self.num_layers, self.info.name)

    def keeping(self: M, layers: Sequence[int]) -> M:
        """Return the model with caches that store hidden states; see `protocols.HiddenStates`."""
        check_states(layers, self.num_layers, self.info.name)
        if len(set(layers)) < len(layers):
            raise OptionError(
                f"hidden states {list(layers)} of {self.info.name} hold one of them twice",
                hint="Name each state once",
            )
        other = copy(self)
        kept = tuple(layers)
        other._layout = layout = replace(self._layout, kept=kept, hidden=self.width)
        other.info = replace(self.info, find_bytes_per_token=lambda: layout.bytes_per_token)
        other._keep(kept)
        return other

    def reading(self, owner: "OwnModel") -> "OwnModel":
        """Return the model over the caches of `owner`, which has the same shape and other weights.

        It reads rows that `owner` has computed, and writes only to caches that it borrows.

        Raises:
            StrategyError: the shapes of the caches differ.
        """
        own, theirs = self._layout, owner._layout
        if any(getattr(own, name) != getattr(theirs, name) for name in _SHAPE):
            raise StrategyError(
                f"{self.info.name} cannot read caches of {owner.info.name}: their shapes differ",
                hint="Use models of the same shape",
            )
        every = LayerSet.of_layers(self.num_layers, range(self.num_layers))
        other = self.subset(every)  # a subset reads caches that it has borrowed, in every runner
        assert isinstance(other, OwnModel)  # a runner makes parts of its own kind
        other._layout, other.info = theirs, self.info
        other._keep(())
        return other

    def segment(self, first: int, last: int) -> "OwnModel":
        """Return layers `first` to `last` (counted from 0, without `last`), the final norm and the
        head.

        It reads rows that the layers before have read: `DecoderCache.replay` gives it their states.
        Of the states that caches keep, it stores the outputs of its own layers.

        Raises:
            StrategyError: given rows are scaled before the first layer, so states are no input; or
                a policy drops rows of the cache (`under`), and rows are read once for it.
            OptionError: there are no such layers.
        """
        if self._compression is not None:
            raise StrategyError(
                f"{self.info.name} drops rows of its cache, and early exits read rows twice",
                hint="Leave out the policy of the cache, or the early exits",
            )
        if self.config.scales.rows != 1:
            raise StrategyError(
                f"{self.info.name} scales the rows that enter its first layer",
                hint="Use a draft model of another architecture",
            )
        part = self.subset(LayerSet.of_layers(self.num_layers, range(first, last)))
        assert isinstance(part, OwnModel)  # a runner makes parts of its own kind
        part._keep([state for state in self._layout.kept if first < state <= last])
        return part

    @abstractmethod
    def _keep(self, states: Sequence[int]) -> None:
        """Make forwards store these states, which the layout of the caches has."""

    def kept(self, cache: Cache, start: int, stop: int) -> Float[Tensor, "rows layers hidden"]:
        """Return stored hidden states of committed rows; see `protocols.HiddenStates`."""
        own = self._own(cache)
        if own is None or not own.layout.kept:
            raise not_kept(self.info.name)
        if not 0 <= start <= stop <= own.length:
            raise IndexError(f"rows {start} to {stop} of {own.length} committed rows")
        return own.storage.states[start:stop]

    def _borrowed(self, cache: DecoderCache) -> BorrowedCache:
        return BorrowedCache(cache)

    def _fresh_cache(self) -> DecoderCache:
        if self._compression is not None:
            return CompressedCache(self._layout, self._compression)
        return DecoderCache(self._layout)

    def _own(self, cache: Cache | None) -> DecoderCache | None:
        """Return `cache` if this model filled it, else None: two models never share a layout."""
        if isinstance(cache, DecoderCache) and cache.layout is self._layout:
            return cache
        return None
