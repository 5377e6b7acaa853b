"""Models that read tokens and return logits, and what some of them can do besides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from outrider.core.layers import LayerSet
from outrider.core.types import (
    IntArray,
    Piece,
    Prompt,
    Rows,
)
from outrider.protocols.cache import Cache
from outrider.protocols.info import ModelInfo
from outrider.sampling import Sampler

TokenEmbedding = Callable[[Sequence[int] | IntArray], Tensor]
"""From token ids `[n]` to the rows `[n, hidden]` that a model reads for them."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens one forward appends to one cache (after its pending ones, if those are unread).

    `parents` are row numbers since the last commit; None continues from the newest row.
    """

    cache: Cache
    tokens: IntArray
    parents: IntArray | None = None


@runtime_checkable
class Capabilities(Protocol):
    """What some models can do besides reading. Each is an object that does it, which may be the
    model itself, or None where this model can not. Every model declares all of them."""

    @property
    def layered(self) -> "Layered | None":
        """Runs a part of its layers, over the same caches."""
        ...

    @property
    def segmented(self) -> "Segmented | None":
        """Rearranges its caches."""
        ...

    @property
    def chain_decoder(self) -> "ChainDecoder | None":
        """Writes chains in one call."""
        ...

    @property
    def hidden_states(self) -> "HiddenStates | None":
        """Returns the hidden states of chosen layers."""
        ...

    @property
    def selector(self) -> "ContextSelector | None":
        """Reads parts of a long input, other ones while it writes."""
        ...

    @property
    def embed(self) -> TokenEmbedding | None:
        """Its input embeddings; without them it reads no `Prompt.embeddings`."""
        ...


@runtime_checkable
class LanguageModel(Capabilities, Protocol):
    """A model that reads tokens and gives logits for the rows asked for."""

    @property
    def info(self) -> ModelInfo:
        """What it is."""
        ...

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> Sequence[Cache]:
        """Read all but the last token of each prompt; one cache each, the last token pending.

        Equal prompts (the same object) are read once and forked. A cache in `reuse` is taken over:
        what it shares with the prompt is not read again. Raises `ContextError`.
        """
        ...

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments in one pass; `want[i]` names the rows of segment i to return.

        -1 is the row of the last pending token; only rows fed by this very forward can be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChainRequest:
    """A chain that a model is to write by itself.

    Attributes:
        segment: ends with the row that the first token of the chain follows.
        sampler: chooses the tokens.
        generated: tokens that were written before the first one.
        depth: most tokens of the chain.
    """

    segment: Segment
    sampler: Sampler
    generated: Sequence[int]
    depth: int


@runtime_checkable
class ChainDecoder(Protocol):
    """Writes a chain in one call: compiled, or on the device of the model."""

    def write_chains(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """Write each chain, as its sampler chooses the tokens.

        The rows of all but the last token are read and noted in the cache, as a loop of
        forwards would. Nothing follows an end token. An array that ends sooner, without one, says
        that the logits after it were unusable. None, with nothing done, where a sampler does more
        than the model knows, or it can not stop early.

        With a `confidence`, writing ends after a token that was chosen where no token had this
        probability, at the sampler's temperature (1 where that is 0) and before the other warps.
        """
        ...


@runtime_checkable
class Layered(Protocol):
    """Drafts with a part of the model's layers: the same weights, and the same cache up to the end
    of the text."""

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        ...

    def subset(self, layers: LayerSet) -> LanguageModel:
        """The model made of `layers` alone. Takes no memory and no time worth naming; it reads
        caches of the whole model, borrowed ones and others. Raises `StrategyError` where layers
        can not be left out."""
        ...

    def borrow(self, cache: Cache) -> Cache:
        """A cache that has the text and the committed rows of `cache`, at any time and by
        reference, and speculative rows of its own. It may be read only while `cache` has no
        speculative rows, and its own are gone when `cache` goes on. Raises `StrategyError` for a
        cache that this model has not filled."""
        ...

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Final norm and head: what the model would answer if a layer that left these states were
        its last."""
        ...


@runtime_checkable
class HiddenStates(Protocol):
    """Returns the hidden states of chosen layers, for the rows that a forward returns.

    They are numbered like `output_hidden_states` of transformers: 0 are the embeddings, i is what
    layer i (counted from 1) leaves, and the last one, `num_layers`, is what the final norm makes of
    the last layer's. In a model made of a part of the layers (`Layered.subset`) a layer that is
    left out leaves what it got.
    """

    @property
    def num_layers(self) -> int:
        """Layers of the whole model, the largest number of a state."""
        ...

    @property
    def width(self) -> int:
        """Numbers in the state of one row."""
        ...

    def watch(self, cache: Cache, layers: Sequence[int] | None) -> None:
        """Let forwards over `cache` return `Rows.states` of these layers, in this order, until it
        is watched otherwise or a model starts on it anew. None: no more.

        Only these states are kept, and logits stay the same bits.

        Raises:
            OptionError: there is no such layer.
            StrategyError: another model has filled `cache`, or this one does not show its states.
        """
        ...


@runtime_checkable
class Segmented(Protocol):
    """Takes caches apart: committed rows are dropped, moved, and computed in between others that
    stay."""

    @property
    def reads_gaps(self) -> bool:
        """Whether positions may have gaps (`Prompt.positions`)."""
        ...

    def rearrange(self, caches: Sequence[Cache], texts: Sequence[Sequence[Piece]]) -> None:
        """Make the text of each cache what its pieces spell, in order; they ascend in position.

        Rows of `Kept` tokens stay as they are, whatever now stands before them; of the other tokens
        all but the last are read, each seeing the rows before it. Rows that are not kept are gone
        before new ones are made: a cache never holds more than it held before or holds after.
        Speculative rows are forgotten; the last token is pending.

        Raises:
            ContextError: the text does not fit into the window.
            ValueError: kept tokens are not in order, or would have to turn to another position.
        """
        ...


@runtime_checkable
class ContextSelector(Protocol):
    """Reads only parts of a prompt's long input (`Prompt.context`), and other parts while the
    answer is being written.

    On the target it changes the target; on a drafter it can only cost acceptance.
    """

    @property
    def inner(self) -> LanguageModel:
        """The model that reads what is selected."""
        ...

    def reads(self, prompt: Prompt) -> int:
        """Places of its window that `prompt` takes, at most. Raises `ContextError` when not even
        the instruction fits."""
        ...

    def refresh(self, caches: Sequence[Cache]) -> None:
        """Choose again for caches whose `horizon` is 0; the others are left as they are."""
        ...


CAPABILITIES = tuple(
    name for name, kind in vars(Capabilities).items() if isinstance(kind, property)
)
"""Names of the capabilities."""
