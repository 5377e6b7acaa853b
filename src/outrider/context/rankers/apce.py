"""The default ranker of APCE: scores chunks by meaning, by words, and by the preceding chunk."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from outrider.context.config import ContextConfig
from outrider.context.rankers.bm25 import Bm25Ranker
from outrider.context.rankers.cosine import CosineRanker
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.encoders import Encoder
from outrider.context.rankers.encoding import make_encoder
from outrider.context.rankers.ranking import Index, Ranker, SelectorMethod
from outrider.core.types import Exactness, LongContext, Passage
from outrider.protocols.method import Paper

WORDS = 0.35
"""Share of the score by words. Cosines differ little between chunks and change with every query;
shared rare words are few and reliable, so that fewer swaps find more (docs/results.md).
"""

SUCCESSION = 0.6
"""Share of its score that a chunk passes to the next one. It finds a paragraph or an answer that
continues in a chunk that does not resemble the query.
"""


@dataclass(frozen=True, eq=False)
class BlendedRanker:
    """Mixes the paper's cosine with BM25 and passes a part of each score to the next chunk.

    score = (1 - words) cosine + words bm25;  score_i = max(score_i, succession score_(i-1)).

    Attributes:
        meaning: scores by an encoder.
        lexical: scores by words, from 0 to 1; None uses only `meaning`.
        words: share of `lexical`.
        succession: share of its score that a chunk passes to the next one.
        name: its name in reports.
        refreshes: whether scores depend on generated tokens.
    """

    meaning: Ranker
    lexical: Ranker | None = None
    words: float = WORDS
    succession: float = SUCCESSION
    name: str = "apce"
    refreshes: bool = True

    @property
    def encoder_name(self) -> str | None:
        """Name of the encoder."""
        return self.meaning.encoder_name

    @property
    def encoder(self) -> Encoder | None:
        """The encoder of text as vectors."""
        return self.meaning.encoder

    def index(self, context: LongContext) -> "BlendedIndex":
        """Build both indexes of `context`; they are cached."""
        words = None if self.lexical is None else self.lexical.index(context)
        return BlendedIndex(self.meaning.index(context), words, self)


@dataclass(frozen=True, slots=True)
class BlendedIndex:
    """The two indexes of one long input."""

    meaning: Index
    lexical: Index | None
    settings: BlendedRanker

    def scores(
        self, query: Passage, recent: Passage | None, mix: float
    ) -> Float64[ndarray, " chunks"]:
        """Return the mixed scores, from -1 to 1."""
        own, last = self.settings, recent if self.settings.refreshes else None
        scores = self.meaning.scores(query, last, mix)
        if self.lexical is not None:
            scores = (1 - own.words) * scores + own.words * self.lexical.scores(query, last, mix)
        out = scores.copy()
        out[1:] = np.maximum(out[1:], own.succession * scores[:-1])
        return out


def blended(config: ContextConfig, embed: Embed | None) -> BlendedRanker:
    """Build a ranker by meaning, and by words if bm25s is installed."""
    return BlendedRanker(
        CosineRanker(make_encoder(config.encoder, embed)),
        Bm25Ranker() if Bm25Ranker.installed() else None,
    )


METHOD = SelectorMethod(
    name="apce",
    cls=BlendedRanker,
    summary="the chunks nearest to the instruction and to what is being written, in meaning and "
    "in words",
    paper=Paper("APCE", "2510.12051"),
    promise=Exactness.LOSSY,
    rank=blended,
)
