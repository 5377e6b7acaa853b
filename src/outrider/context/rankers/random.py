"""Selects random chunks."""

import numpy as np

from outrider.context.config import ContextConfig
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.fixed_order import FixedRanker
from outrider.context.rankers.ranking import SelectorMethod
from outrider.core.types import Exactness


def random(seed: int = 0) -> FixedRanker:
    """Rank chunks randomly; equal seeds and numbers of chunks give equal ranks."""
    return FixedRanker("random", lambda n: np.random.default_rng(seed).permutation(n))


def _rank(config: ContextConfig, embed: Embed | None) -> FixedRanker:
    return random(config.seed)


METHOD = SelectorMethod(
    name="random",
    cls=FixedRanker,
    summary="chunks drawn by the seed",
    promise=Exactness.LOSSY,
    rank=_rank,
)
