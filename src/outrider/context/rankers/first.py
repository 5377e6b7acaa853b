"""Selects the first chunks."""

import numpy as np

from outrider.context.config import ContextConfig
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.fixed_order import FixedRanker
from outrider.context.rankers.ranking import SelectorMethod
from outrider.core.types import Exactness


def first() -> FixedRanker:
    """Rank chunks from the beginning."""
    return FixedRanker("first", np.arange)


def _rank(config: ContextConfig, embed: Embed | None) -> FixedRanker:
    return first()


METHOD = SelectorMethod(
    name="first",
    cls=FixedRanker,
    summary="the first chunks",
    promise=Exactness.LOSSY,
    rank=_rank,
)
