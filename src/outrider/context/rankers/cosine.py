"""Scores chunks by meaning: the best window of each chunk against a query that is refreshed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from outrider.context.config import ContextConfig
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.encoders import Encoder, fitted, unit
from outrider.context.rankers.encoding import make_encoder
from outrider.context.rankers.ranking import SelectorMethod
from outrider.core.types import Exactness, LongContext, Passage
from outrider.inputs.documents.chunks import windows
from outrider.protocols.method import Paper

WINDOW = 32
"""Tokens of a window. The vector of a whole chunk hides single sentences, and MiniLM reads at most
256 word pieces.
"""


@dataclass(frozen=True, eq=False)
class CosineRanker:
    """The score of the paper: the cosine of a chunk and a query that is refreshed.

    q = unit(mix f(instruction) + (1 - mix) f(last tokens)), as in APCE (arXiv 2510.12051). Unlike
    there, the score of a chunk is that of its best window.

    Attributes:
        encoder: f.
        window: tokens of a window, cut at sentence ends; None scores whole chunks, as in the paper.
        name: its name in reports.
        refreshes: whether scores depend on generated tokens.
    """

    encoder: Encoder
    window: int | None = WINDOW
    name: str = "cosine"
    refreshes: bool = True
    _known: WeakKeyDictionary[LongContext, "CosineIndex"] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )

    @property
    def encoder_name(self) -> str:
        """Name of the encoder."""
        return self.encoder.name

    def index(self, context: LongContext) -> "CosineIndex":
        """Build the index; chunks are encoded at the first `scores`, once for each `context`."""
        if context not in self._known:
            self._known[context] = CosineIndex(
                context.chunks, self.encoder, self.window, self.refreshes
            )
        return self._known[context]


class CosineIndex:
    """The vectors of one long input."""

    def __init__(
        self, chunks: Sequence[Passage], encoder: Encoder, window: int | None, refreshes: bool
    ) -> None:
        self._chunks, self._encoder = chunks, encoder
        self._window, self._refreshes = window, refreshes
        self._ready: tuple[ndarray, ndarray, Callable[[Passage], ndarray]] | None = None

    def scores(
        self, query: Passage, recent: Passage | None, mix: float
    ) -> Float64[ndarray, " chunks"]:
        """Return the cosine of the query and the best window of each chunk."""
        if not self._chunks:
            return np.zeros(0)
        if self._ready is None:
            self._ready = self._encode()
        vectors, firsts, vector = self._ready
        asked = vector(query)
        if recent is not None and self._refreshes:
            asked = unit(mix * asked + (1 - mix) * vector(recent))
        cosines = np.clip(vectors @ asked, -1.0, 1.0)
        return np.maximum.reduceat(cosines, firsts)

    def _encode(self) -> tuple[ndarray, ndarray, Callable[[Passage], ndarray]]:
        """Return vectors of all windows, the first window of each chunk, and a query encoder."""
        pieces = [[c] if self._window is None else windows(c, self._window) for c in self._chunks]
        flat = [piece for of_chunk in pieces for piece in of_chunk]
        encoder = fitted(self._encoder, flat)
        firsts = np.cumsum([0, *(len(of_chunk) for of_chunk in pieces[:-1])])

        def vector(passage: Passage) -> ndarray:
            return unit(encoder.encode([passage])[0])

        # A small cache, so that models that share an index do not encode the same query twice.
        return unit(encoder.encode(flat)), firsts, lru_cache(maxsize=8)(vector)


def _rank(config: ContextConfig, embed: Embed | None) -> CosineRanker:
    return CosineRanker(make_encoder(config.encoder, embed))


METHOD = SelectorMethod(
    name="cosine",
    cls=CosineRanker,
    summary="the chunks nearest in meaning, as in the paper",
    paper=Paper("APCE", "2510.12051"),
    promise=Exactness.LOSSY,
    rank=_rank,
)
