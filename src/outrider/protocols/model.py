"""Models that read tokens and return logits, and the optional capabilities of some of them."""

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
"""Maps token ids `[n]` to the input embeddings `[n, hidden]` of the model."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens that one forward appends to one cache, after its pending tokens if those are
    unread.

    `parents` are row numbers since the last commit; with None, the tokens continue from the newest
    row. `prompts` `[prompts, hidden]` are input embeddings that negative ids are read as: id -1 is
    row 0 (`ModelInfo.reads_prompts`). With `both`, rows of negative ids also read those of this
    segment that follow them, which is for chains of them alone.
    """

    cache: Cache
    tokens: IntArray
    parents: IntArray | None = None
    prompts: Float[Tensor, "prompts hidden"] | None = None
    both: bool = False


@runtime_checkable
class Capabilities(Protocol):
    """Optional capabilities of models. Each attribute is an object that implements the capability,
    which may be the model itself, or None if the model does not support it. Every model declares
    all attributes."""

    @property
    def layered(self) -> "Layered | None":
        """Runs a subset of its layers, on the same caches."""
        ...

    @property
    def segmented(self) -> "Segmented | None":
        """Removes, moves and inserts rows of its caches."""
        ...

    @property
    def chain_decoder(self) -> "ChainDecoder | None":
        """Generates a whole chain of tokens in one call."""
        ...

    @property
    def hidden_states(self) -> "HiddenStates | None":
        """Returns the hidden states of chosen layers."""
        ...

    @property
    def selector(self) -> "ContextSelector | None":
        """Reads selected parts of a long input and can change the selection during generation."""
        ...

    @property
    def embed(self) -> TokenEmbedding | None:
        """The input embeddings; None: the model cannot read `Prompt.embeddings`."""
        ...


@runtime_checkable
class LanguageModel(Capabilities, Protocol):
    """A model that reads tokens and returns logits for the requested rows."""

    @property
    def info(self) -> ModelInfo:
        """The properties of the model: name, vocabulary, window, device."""
        ...

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> Sequence[Cache]:
        """Read all but the last token of each prompt; return one cache each, with the last token
        pending.

        Equal prompts (the same object) are read once and the cache is forked. A cache in `reuse` is
        continued: the prefix that it shares with the prompt is not read again. Raises
        `ContextError`.
        """
        ...

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments in one pass; `want[i]` lists the rows of segment i to return.

        -1 is the row of the last pending token. Only rows that this forward computes can be
        returned.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChainRequest:
    """A chain of tokens that a model generates in one call.

    Attributes:
        segment: its last row is the one that the first token of the chain follows.
        sampler: chooses the tokens.
        generated: tokens that were generated before the chain.
        depth: the largest number of tokens in the chain.
    """

    segment: Segment
    sampler: Sampler
    generated: Sequence[int]
    depth: int


@runtime_checkable
class ChainDecoder(Protocol):
    """Generates a chain in one call, as compiled code or on the device of the model."""

    def write_chains(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """Generate each chain with the tokens that its sampler chooses.

        The rows of all tokens but the last are computed and recorded in the cache, as a loop of
        forwards would do. A chain stops after an end token. An array that is shorter without an end
        token means that the next logits were unusable. The result is None, and nothing is changed,
        if a sampler uses options that the model does not support, or if the model cannot stop
        early.

        With `confidence` above 0, a chain stops after a token that was chosen while no token had
        this probability, measured at the sampler's temperature (1 where that is 0) and before the
        other warps.
        """
        ...


@runtime_checkable
class Layered(Protocol):
    """Drafts with a subset of the model's layers. The weights are the same, and so is the cache up
    to the end of the text."""

    @property
    def num_layers(self) -> int:
        """Number of layers of the whole model."""
        ...

    def subset(self, layers: LayerSet) -> LanguageModel:
        """Return the model that consists of `layers` only. Creating it takes almost no memory or
        time. It reads caches of the whole model, borrowed or not. Raises `StrategyError` if layers
        cannot be left out.
        """
        ...

    def borrow(self, cache: Cache) -> Cache:
        """Return a cache with speculative rows of its own that refers to the text and the committed
        rows of `cache`, also after later commits. It may be read only while `cache` has no
        speculative rows; its own rows are dropped when `cache` advances. Raises `StrategyError` for
        a cache that this model did not fill.
        """
        ...

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Apply the final norm and the output head: the logits of the model if the layer that
        computed these states were its last one."""
        ...


@runtime_checkable
class HiddenStates(Protocol):
    """Returns the hidden states of chosen layers, for the rows that a forward returns.

    States are numbered as in `output_hidden_states` of transformers: 0 is the embeddings, i is the
    output of layer i (counted from 1), and the last one, `num_layers`, is the output of the last
    layer after the final norm. In a model with a subset of the layers (`Layered.subset`), the
    output of an omitted layer equals its input.
    """

    @property
    def num_layers(self) -> int:
        """Number of layers of the whole model, which is also the largest number of a state."""
        ...

    @property
    def width(self) -> int:
        """Size of the hidden state of one row."""
        ...

    def watch(self, cache: Cache, layers: Sequence[int] | None) -> None:
        """Make forwards over `cache` return `Rows.states` of these layers, in this order, until the
        next call or until a model starts on the cache again. With None, no states are returned.

        Only these states are stored, and the logits stay bit-identical.

        Raises:
            OptionError: there is no such layer.
            StrategyError: another model filled `cache`, or this model does not return its states.
        """
        ...

    def keeping(self, layers: Sequence[int]) -> LanguageModel:
        """Return the same model, with caches that store these states of every row that they hold.

        Heads read them: also those of prompts, of reused prefixes and of resumed requests. They
        take `4 * len(layers) * width` bytes a token.

        Raises:
            OptionError: there is no such layer.
            StrategyError: this model cannot store its states.
        """
        ...

    def head_rows(self, token_ids: Sequence[int] | IntArray) -> Float[Tensor, "tokens width"]:
        """Return the rows of the output head for these tokens, in float32: the logit of a token is
        its row times the last state, up to a divisor and a cap."""
        ...

    def kept(self, cache: Cache, start: int, stop: int) -> Float[Tensor, "rows layers hidden"]:
        """Return the stored states of the committed rows from `start` to `stop`, a view.

        Raises:
            IndexError: some of the rows are not committed.
            StrategyError: the cache stores no states, or another model filled it.
        """
        ...


@runtime_checkable
class Segmented(Protocol):
    """Edits caches: committed rows can be dropped or moved, and new rows can be computed between
    rows that stay."""

    @property
    def reads_gaps(self) -> bool:
        """Whether positions may have gaps (`Prompt.positions`)."""
        ...

    def rearrange(self, caches: Sequence[Cache], texts: Sequence[Sequence[Piece]]) -> None:
        """Make the text of each cache equal to its pieces, in order; positions are ascending.

        Rows of `Kept` tokens stay as they are, regardless of what precedes them now. All other
        tokens except the last one are read, and each attends to the rows before it. Rows that are
        not kept are removed before new ones are computed, so a cache never holds more than the
        larger of its old and its new size. Speculative rows are dropped; the last token is pending.

        Raises:
            ContextError: the text does not fit into the window.
            ValueError: kept tokens are not in order, or would have to move to another position.
        """
        ...


@runtime_checkable
class ContextSelector(Protocol):
    """Reads only parts of a prompt's long input (`Prompt.context`), and can select other parts
    during generation.

    On the target, the selection changes the output distribution; on a drafter, it can only lower
    the acceptance rate.
    """

    @property
    def inner(self) -> LanguageModel:
        """The model that reads the selected parts."""
        ...

    def reads(self, prompt: Prompt) -> int:
        """Return an upper bound for the number of positions of its window that `prompt` takes.
        Raises `ContextError` if not even the instruction fits.
        """
        ...

    def refresh(self, caches: Sequence[Cache]) -> None:
        """Select again for caches whose `horizon` is 0; other caches are not changed."""
        ...


CAPABILITIES = tuple(
    name for name, kind in vars(Capabilities).items() if isinstance(kind, property)
)
"""Names of the capabilities that every model declares."""
