"""Passes the capabilities of an inner model on to a wrapper, over the inner caches.

A wrapper defines how one of its caches maps to the inner cache; `ModelWrapper` then passes every
capability on. A wrapper that changes or lacks a capability sets it afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import IntArray, Piece, Prompt
from outrider.protocols import (
    Cache,
    ChainDecoder,
    ChainRequest,
    ContextSelector,
    HiddenStates,
    LanguageModel,
    Layered,
    ModelInfo,
    Segment,
    Segmented,
    TokenEmbedding,
)

Opening = Callable[[Cache], Cache]
"""Maps a cache of a wrapper to the cache of the inner model."""


class ModelWrapper:
    """A model around `inner`, with all of its capabilities; subclasses add `start` and `forward`.

    Attributes:
        inner: the inner model.
        info: description of the wrapper.
    """

    def __init__(
        self, inner: LanguageModel, info: ModelInfo, opened: Opening | None = None
    ) -> None:
        self.inner = inner
        self.info = replace(info, reads_prompts=False)
        self.layered: Layered | None = inner.layered
        self.segmented: Segmented | None = inner.segmented
        self.chain_decoder: ChainDecoder | None = inner.chain_decoder
        states = inner.hidden_states
        self.hidden_states: HiddenStates | None = states and StatesInside(states, opened or _same)
        self.selector: ContextSelector | None = inner.selector
        self.embed: TokenEmbedding | None = inner.embed
        if opened is not None:
            self._open(opened)

    def _open(self, opened: Opening) -> None:
        """Make each capability that takes caches accept those of the wrapper."""
        if self.layered is not None:
            self.layered = LayeredInside(self.layered, opened)
        if self.segmented is not None:
            self.segmented = SegmentedInside(self.segmented, opened)
        if self.chain_decoder is not None:
            self.chain_decoder = ChainsInside(self.chain_decoder, opened)
        if self.selector is not None:
            self.selector = SelectorInside(self.selector, opened)


def _same(cache: Cache) -> Cache:
    return cache


def opened_segment(segment: Segment, opened: Opening) -> Segment:
    """Return `segment` over the cache of the inner model."""
    inside = opened(segment.cache)
    return segment if inside is segment.cache else replace(segment, cache=inside)


@dataclass(frozen=True, slots=True)
class LayeredInside:
    """`protocols.Layered` of the inner model.

    A subset reads caches of the inner model; `borrow` makes one.
    """

    inner: Layered
    opened: Opening

    @property
    def num_layers(self) -> int:
        """Number of layers of the full model."""
        return self.inner.num_layers

    def subset(self, layers: LayerSet) -> LanguageModel:
        """Return a subset of the inner model."""
        return self.inner.subset(layers)

    def borrow(self, cache: Cache) -> Cache:
        """Create a cache over the committed rows of `cache`."""
        return self.inner.borrow(self.opened(cache))

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Apply the final norm and the head to residual streams."""
        return self.inner.read_out(states)


@dataclass(frozen=True, slots=True)
class SegmentedInside:
    """`protocols.Segmented` of the inner model."""

    inner: Segmented
    opened: Opening

    @property
    def reads_gaps(self) -> bool:
        """Whether positions may have gaps."""
        return self.inner.reads_gaps

    def rearrange(self, caches: Sequence[Cache], texts: Sequence[Sequence[Piece]]) -> None:
        """Rearrange each cache so that its text equals its pieces."""
        self.inner.rearrange([self.opened(cache) for cache in caches], texts)


@dataclass(frozen=True, slots=True)
class ChainsInside:
    """`protocols.ChainDecoder` of the inner model."""

    inner: ChainDecoder
    opened: Opening

    def write_chains(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """Write each chain with the inner model."""
        inside = [replace(c, segment=opened_segment(c.segment, self.opened)) for c in chains]
        return self.inner.write_chains(inside, confidence)


@dataclass(frozen=True, slots=True)
class StatesInside:
    """`protocols.HiddenStates` of the inner model."""

    inner: HiddenStates
    opened: Opening

    @property
    def num_layers(self) -> int:
        """Number of layers of the full model."""
        return self.inner.num_layers

    @property
    def width(self) -> int:
        """Size of the hidden state of one row."""
        return self.inner.width

    def watch(self, cache: Cache, layers: Sequence[int] | None) -> None:
        """Choose the layers of `Rows.states`."""
        self.inner.watch(self.opened(cache), layers)

    def keeping(self, layers: Sequence[int]) -> LanguageModel:
        """Raise `StrategyError`: the inner model is wrapped after it is told to keep states."""
        raise StrategyError(
            "a model that is wrapped can no longer be told to store hidden states",
            hint="Choose the head before guidance or context selection wraps the target",
        )

    def head_rows(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens width"]:
        """Return the rows of the output head for these tokens."""
        return self.inner.head_rows(token_ids)

    def kept(self, cache: Cache, start: int, stop: int) -> Float[Tensor, "rows layers hidden"]:
        """Return stored hidden states of committed rows."""
        return self.inner.kept(self.opened(cache), start, stop)


@dataclass(frozen=True, slots=True)
class SelectorInside:
    """`protocols.ContextSelector` of the inner model."""

    selector: ContextSelector
    opened: Opening

    @property
    def inner(self) -> LanguageModel:
        """The model that reads the selected tokens."""
        return self.selector.inner

    def reads(self, prompt: Prompt) -> int:
        """Return the number of places of the window that `prompt` takes."""
        return self.selector.reads(prompt)

    def refresh(self, caches: Sequence[Cache]) -> None:
        """Select again for caches whose `horizon` is 0."""
        self.selector.refresh([self.opened(cache) for cache in caches])
