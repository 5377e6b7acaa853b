"""Scores chunks by the rare words that they share with the query: BM25."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from outrider.context.config import ContextConfig
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.ranking import SelectorMethod
from outrider.core.errors import MissingExtraError
from outrider.core.types import Exactness, LongContext, Passage
from outrider.protocols.method import Paper

# In scripts without spaces each character counts as a word.
_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_WIDE}]|[^\W{_WIDE}]+")


@dataclass(frozen=True, eq=False)
class Bm25Ranker:
    """Okapi BM25 (Robertson and Zaragoza 2009) over chunks, with the package bm25s.

    It uses lower-case words if the input has text, else token ids.
    """

    name: str = "bm25"
    encoder_name: str | None = None
    encoder: None = None
    refreshes: bool = True
    _known: WeakKeyDictionary[LongContext, "Bm25Index"] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )

    @staticmethod
    def installed() -> bool:
        """Whether bm25s is installed."""
        return find_spec("bm25s") is not None

    def __post_init__(self) -> None:
        if not self.installed():
            raise MissingExtraError("bm25s", "context")

    def index(self, context: LongContext) -> "Bm25Index":
        """Build the index; words are counted at the first call of `scores`."""
        if context not in self._known:
            self._known[context] = Bm25Index(context.chunks)
        return self._known[context]


class Bm25Index:
    """The words of one long input."""

    def __init__(self, chunks: Sequence[Passage]) -> None:
        self._chunks = chunks
        self._share: Callable[[Passage], ndarray] | None = None

    def scores(
        self, query: Passage, recent: Passage | None, mix: float
    ) -> Float64[ndarray, " chunks"]:
        """Return scores from 0 to 1, relative to the best chunk.

        Instruction and last generated tokens are scored separately and then mixed, so that the
        longer one does not dominate.
        """
        if self._share is None:
            # Not a method: a cached method would keep the object alive.
            self._share = lru_cache(maxsize=8)(_asker(self._chunks))
        scores = self._share(query)
        return scores if recent is None else mix * scores + (1 - mix) * self._share(recent)


def _asker(chunks: Sequence[Passage]) -> Callable[[Passage], ndarray]:
    """Return a function from a query to the scores of all chunks, relative to the best."""
    from bm25s import BM25

    text = any(chunk.text for chunk in chunks)
    corpus = [_words(chunk, text) for chunk in chunks]
    model = BM25(method="lucene")
    if any(corpus):  # bm25s cannot index an empty corpus
        model.index(corpus, show_progress=False)

    def ask(query: Passage) -> ndarray:
        wanted = _words(query, text)
        if not any(corpus) or not wanted:
            return np.zeros(len(corpus))
        scores = np.asarray(model.get_scores(wanted), dtype=np.float64)
        return scores / best if (best := scores.max()) > 0 else scores

    return ask


def _words(passage: Passage, text: bool) -> list[str]:
    """Return lower-case words; without text, the ids as strings."""
    return _WORD.findall(passage.text.lower()) if text else [str(i) for i in passage.token_ids]


def _rank(config: ContextConfig, embed: Embed | None) -> Bm25Ranker:
    return Bm25Ranker()


METHOD = SelectorMethod(
    name="bm25",
    cls=Bm25Ranker,
    summary="the chunks that share rare words with the instruction and what is being written",
    paper=Paper("BM25, Robertson and Zaragoza 2009"),
    promise=Exactness.LOSSY,
    rank=_rank,
)
