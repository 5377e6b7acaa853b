"""Which parts of a long input a model reads."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider.context.chunks import Source, cut, cut_sources
    from outrider.context.config import ContextConfig
    from outrider.context.cosine import CosineRanker
    from outrider.context.embeddings import EmbeddingEncoder
    from outrider.context.encoders import Encoder
    from outrider.context.lexical import Bm25Ranker
    from outrider.context.rankers import make_encoder, make_ranker
    from outrider.context.ranking import Index, Ranker
    from outrider.context.selection import Look, Selection
    from outrider.context.selector import Selected, select
    from outrider.context.sentence import SentenceEncoder

_HOMES = {
    "Bm25Ranker": "lexical",
    "ContextConfig": "config",
    "CosineRanker": "cosine",
    "EmbeddingEncoder": "embeddings",
    "Encoder": "encoders",
    "Index": "ranking",
    "Look": "selection",
    "Ranker": "ranking",
    "Selected": "selector",
    "Selection": "selection",
    "SentenceEncoder": "sentence",
    "Source": "chunks",
    "cut": "chunks",
    "cut_sources": "chunks",
    "make_encoder": "rankers",
    "make_ranker": "rankers",
    "select": "selector",
}

__all__ = [
    "Bm25Ranker",
    "ContextConfig",
    "CosineRanker",
    "EmbeddingEncoder",
    "Encoder",
    "Index",
    "Look",
    "Ranker",
    "Selected",
    "Selection",
    "SentenceEncoder",
    "Source",
    "cut",
    "cut_sources",
    "make_encoder",
    "make_ranker",
    "select",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"outrider.context.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
