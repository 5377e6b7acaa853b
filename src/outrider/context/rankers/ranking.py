"""The contract of rankers: they score how relevant each chunk is to the text being written."""

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
    """One long input, prepared for scoring."""

    def scores(
        self, query: Passage, recent: Passage | None, mix: float
    ) -> Float64[ndarray, " chunks"]:
        """Return a score for each chunk, from -1 to 1, higher for more relevant ones.
        Deterministic.

        Args:
            query: the instruction.
            recent: the last generated tokens; None before the first one.
            mix: share of the instruction in the query; the rest is `recent`.
        """
        ...


@runtime_checkable
class Ranker(Protocol):
    """A method of scoring chunks."""

    @property
    def name(self) -> str:
        """Its name in reports, equal to the name of its file."""
        ...

    @property
    def encoder_name(self) -> str | None:
        """Name of the encoder; None if it uses none."""
        ...

    @property
    def encoder(self) -> Encoder | None:
        """The encoder of text as vectors; None if it uses none."""
        ...

    @property
    def refreshes(self) -> bool:
        """Whether its scores may depend on generated tokens."""
        ...

    def index(self, context: LongContext) -> Index:
        """Build the index of the chunks. Slow work is done once for each `context` object."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorMethod(Method[Ranker]):
    """The record of a selector.

    Attributes:
        rank: builds it for a configuration, with the input embeddings of a model if available.
    """

    rank: Callable[[ContextConfig, Embed | None], Ranker]
