"""How much each chunk of a long input matters to what is being written: the contract."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float64
from numpy import ndarray

from outrider.context.config import ContextConfig
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.encoders import Encoder
from outrider.core.types import LongContext, Passage
from outrider.protocols.method import Method


@runtime_checkable
class Index(Protocol):
    """One long input, ready to be scored."""

    def scores(
        self, query: Passage, recent: Passage | None, mix: float
    ) -> Float64[ndarray, " chunks"]:
        """A score a chunk, from -1 to 1, higher for what matters more. Deterministic.

        Args:
            query: the instruction.
            recent: the last generated tokens; None before anything was written.
            mix: share of the instruction in the query; the rest is `recent`.
        """
        ...


@runtime_checkable
class Ranker(Protocol):
    """A way of scoring chunks."""

    @property
    def name(self) -> str:
        """How reports call it, the name of its file."""
        ...

    @property
    def encoder_name(self) -> str | None:
        """Which encoder it asks; None for none."""
        ...

    @property
    def encoder(self) -> Encoder | None:
        """What turns text into vectors; None for nothing."""
        ...

    @property
    def refreshes(self) -> bool:
        """Whether its scores may change with what is written."""
        ...

    def index(self, context: LongContext) -> Index:
        """Read the chunks. What is slow is done once for each `context` object."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorMethod(Method[Ranker]):
    """A selector, described.

    Attributes:
        rank: builds it for a configuration, over the input embeddings of a model if there are any.
    """

    rank: Callable[[ContextConfig, Embed | None], Ranker]
