"""What a model around another one can do: each capability of the model inside, over its own caches.

A wrapper says how one of its caches opens to that of the model inside; `Around` then passes every
capability on. A wrapper that changes one, or can not keep it, sets it after that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

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
"""From a cache of a wrapper to that of the model inside."""


class Around:
    """A model around `inner`, with all of its capabilities; subclasses add `start` and `forward`.

    Attributes:
        inner: the model inside.
        info: what the wrapper is.
    """

    def __init__(
        self, inner: LanguageModel, info: ModelInfo, opened: Opening | None = None
    ) -> None:
        self.inner = inner
        self.info = info
        self.layered: Layered | None = inner.layered
        self.segmented: Segmented | None = inner.segmented
        self.chain_decoder: ChainDecoder | None = inner.chain_decoder
        self.hidden_states: HiddenStates | None = inner.hidden_states
        self.selector: ContextSelector | None = inner.selector
        self.embed: TokenEmbedding | None = inner.embed
        if opened is not None:
            self._open(opened)

    def _open(self, opened: Opening) -> None:
        """Let each capability that takes caches take those of the wrapper."""
        if self.layered is not None:
            self.layered = LayeredInside(self.layered, opened)
        if self.segmented is not None:
            self.segmented = SegmentedInside(self.segmented, opened)
        if self.chain_decoder is not None:
            self.chain_decoder = ChainsInside(self.chain_decoder, opened)
        if self.hidden_states is not None:
            self.hidden_states = StatesInside(self.hidden_states, opened)
        if self.selector is not None:
            self.selector = SelectorInside(self.selector, opened)


def opened_segment(segment: Segment, opened: Opening) -> Segment:
    """`segment` over the cache of the model inside."""
    inside = opened(segment.cache)
    return segment if inside is segment.cache else replace(segment, cache=inside)


@dataclass(frozen=True, slots=True)
class LayeredInside:
    """`protocols.Layered` of the model inside. A subset reads caches of the model inside, of which
    `borrow` makes one."""

    inner: Layered
    opened: Opening

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return self.inner.num_layers

    def subset(self, layers: LayerSet) -> LanguageModel:
        """A part of the model inside."""
        return self.inner.subset(layers)

    def borrow(self, cache: Cache) -> Cache:
        """A cache over the committed rows of `cache`."""
        return self.inner.borrow(self.opened(cache))

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """The final norm and the head over residual streams."""
        return self.inner.read_out(states)


@dataclass(frozen=True, slots=True)
class SegmentedInside:
    """`protocols.Segmented` of the model inside."""

    inner: Segmented
    opened: Opening

    @property
    def reads_gaps(self) -> bool:
        """Whether positions may have gaps."""
        return self.inner.reads_gaps

    def rearrange(self, caches: Sequence[Cache], texts: Sequence[Sequence[Piece]]) -> None:
        """Make the text of each cache what its pieces spell."""
        self.inner.rearrange([self.opened(cache) for cache in caches], texts)


@dataclass(frozen=True, slots=True)
class ChainsInside:
    """`protocols.ChainDecoder` of the model inside."""

    inner: ChainDecoder
    opened: Opening

    def write_chains(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """Write each chain."""
        inside = [replace(c, segment=opened_segment(c.segment, self.opened)) for c in chains]
        return self.inner.write_chains(inside, confidence)


@dataclass(frozen=True, slots=True)
class StatesInside:
    """`protocols.HiddenStates` of the model inside."""

    inner: HiddenStates
    opened: Opening

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return self.inner.num_layers

    @property
    def width(self) -> int:
        """Numbers in the state of one row."""
        return self.inner.width

    def watch(self, cache: Cache, layers: Sequence[int] | None) -> None:
        """Choose the layers of `Rows.states`."""
        self.inner.watch(self.opened(cache), layers)


@dataclass(frozen=True, slots=True)
class SelectorInside:
    """`protocols.ContextSelector` of the model inside."""

    selector: ContextSelector
    opened: Opening

    @property
    def inner(self) -> LanguageModel:
        """The model that reads what is selected."""
        return self.selector.inner

    def reads(self, prompt: Prompt) -> int:
        """Places of the window that `prompt` takes."""
        return self.selector.reads(prompt)

    def refresh(self, caches: Sequence[Cache]) -> None:
        """Choose again for caches whose `horizon` is 0."""
        self.selector.refresh([self.opened(cache) for cache in caches])
