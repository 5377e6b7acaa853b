"""EAGLE-3: a trained head on fused hidden states of the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.drafters.given import Given
from outrider.drafters.heads.chain import HeadChain, chain_priors, make_chain
from outrider.drafters.method import DrafterMethod
from outrider.models.heads.config import HeadKind
from outrider.protocols import Drafter
from outrider.protocols.method import Paper, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Eagle3(HeadChain):
    """Drafts chains with a head of EAGLE-3 (Li et al. 2025, arXiv 2503.01840).

    States of a low, a middle and a high layer are fused. Attention reads the embedding of the token
    beside the fused states; in later steps the output of the row before takes their place. Such a
    head also drafts trees: `tree(eagle2)`.
    """

    name: str = "eagle3"


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Eagle3:
    return make_chain(Eagle3, "eagle3", HeadKind.EAGLE3, given, options)


METHOD = DrafterMethod(
    name="eagle3",
    cls=Eagle3,
    summary="a trained head on fused hidden states of the target",
    paper=Paper("EAGLE-3", "2503.01840"),
    needs="a head of EAGLE-3 for the target",
    memory="the head and its cache, and states of the target",
    make=_make,
    priors=chain_priors,
    models=1,
    head=True,
)
