"""APCE with a selection by the instruction alone: chosen once, never refreshed."""

from dataclasses import replace

from outrider.context.config import ContextConfig
from outrider.context.rankers.apce import BlendedRanker, blended
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.ranking import SelectorMethod
from outrider.core.types import Exactness


def _rank(config: ContextConfig, embed: Embed | None) -> BlendedRanker:
    return replace(blended(config, embed), name="static", refreshes=False)


METHOD = SelectorMethod(
    name="static",
    cls=BlendedRanker,
    summary="the same as apce by the instruction alone, never refreshed",
    promise=Exactness.LOSSY,
    rank=_rank,
)
