"""Selects as many chunks from the end as from the beginning."""

import numpy as np

from outrider.context.config import ContextConfig
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.fixed_order import FixedRanker
from outrider.context.rankers.ranking import SelectorMethod
from outrider.core.types import Exactness


def ends() -> FixedRanker:
    """Rank chunks from both ends: the first chunk, the last, the second, the last but one."""
    return FixedRanker("ends", lambda n: np.minimum(2 * np.arange(n), 2 * np.arange(n)[::-1] + 1))


def _rank(config: ContextConfig, embed: Embed | None) -> FixedRanker:
    return ends()


METHOD = SelectorMethod(
    name="ends",
    cls=FixedRanker,
    summary="as many chunks from the end as from the beginning",
    promise=Exactness.LOSSY,
    rank=_rank,
)
