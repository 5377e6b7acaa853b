"""Models that read tokens and return logits, and what some of them can do besides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
from outrider.sampling import Sampler


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens one forward appends to one cache (after its pending ones, if those are unread).

    `parents` are row numbers since the last commit; None continues from the newest row.
    """

    cache: Any
    tokens: IntArray
    parents: IntArray | None = None


@runtime_checkable
class LanguageModel(Protocol):
    """A model that reads tokens and gives logits for the rows asked for."""

    @property
    def name(self) -> str:
        """How errors and reports call it."""
        ...

    @property
    def vocab_size(self) -> int:
        """Width of its logits."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens it can read."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the weights change; calibrations are saved with it."""
        ...

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Any]:
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
class Writer(Protocol):
    """A model that can also write a chain of its own in one go: compiled, or on its device."""

    def write(
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
    """A model that can draft for itself with a part of its layers: the same weights, and the same
    cache up to the end of the text."""

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

    def watch(self, cache: Cache, on: bool) -> None:
        """Whether forwards of this model over `cache` return `Rows.streams` from now on."""
        ...

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Final norm and head: what the model would answer if a layer that left these states were
        its last."""
        ...


@runtime_checkable
class Segmented(Protocol):
    """A model whose caches can be taken apart: committed rows are dropped, moved, and computed in
    between others that stay."""

    @property
    def reads_gaps(self) -> bool:
        """Whether positions may have gaps (`Prompt.positions`)."""
        ...

    def rearrange(self, caches: Sequence[Any], texts: Sequence[Sequence[Piece]]) -> None:
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
