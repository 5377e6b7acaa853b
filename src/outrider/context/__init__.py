"""Selects which parts of a long input a model reads."""

from typing import TYPE_CHECKING

from outrider.core.lazy import on_first_use

if TYPE_CHECKING:
    from outrider.context.config import ContextConfig
    from outrider.context.rankers.bm25 import Bm25Ranker
    from outrider.context.rankers.cosine import CosineRanker
    from outrider.context.rankers.embeddings import EmbeddingEncoder
    from outrider.context.rankers.encoders import Encoder
    from outrider.context.rankers.encoding import make_encoder
    from outrider.context.rankers.make import make_ranker
    from outrider.context.rankers.ranking import Index, Ranker
    from outrider.context.rankers.sentence import SentenceEncoder
    from outrider.context.selection import Decision, Selection
    from outrider.context.selector import Selected
    from outrider.inputs.documents.chunks import Source, cut, cut_sources

__getattr__ = on_first_use(
    __name__,
    {
        "Bm25Ranker": "rankers.bm25",
        "ContextConfig": "config",
        "CosineRanker": "rankers.cosine",
        "EmbeddingEncoder": "rankers.embeddings",
        "Encoder": "rankers.encoders",
        "Index": "rankers.ranking",
        "Decision": "selection",
        "Ranker": "rankers.ranking",
        "Selected": "selector",
        "Selection": "selection",
        "SentenceEncoder": "rankers.sentence",
        "Source": "outrider.inputs.documents.chunks",
        "cut": "outrider.inputs.documents.chunks",
        "cut_sources": "outrider.inputs.documents.chunks",
        "make_encoder": "rankers.encoding",
        "make_ranker": "rankers.make",
    },
)

__all__ = [
    "Bm25Ranker",
    "ContextConfig",
    "CosineRanker",
    "Decision",
    "EmbeddingEncoder",
    "Encoder",
    "Index",
    "Ranker",
    "Selected",
    "Selection",
    "SentenceEncoder",
    "Source",
    "cut",
    "cut_sources",
    "make_encoder",
    "make_ranker",
]
