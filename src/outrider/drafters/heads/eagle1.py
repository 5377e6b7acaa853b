"""EAGLE: a trained head that predicts the next final state of the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.drafters.given import Given
from outrider.drafters.heads.chain import HeadChain, chain_priors, make_chain
from outrider.drafters.method import DrafterMethod
from outrider.models.heads.config import HeadKind
from outrider.protocols import Drafter
from outrider.protocols.method import Paper, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Eagle1(HeadChain):
    """Drafts chains with a head of EAGLE (Li et al. 2024, arXiv 2401.15077).

    The head continues the sequence of the target's final states. A state alone does not tell which
    token was drawn from it, so the head reads the embedding of that token beside the state. The
    output rows of the target turn the predicted state to probabilities, and the next step reads it.
    Such a head also drafts the trees of EAGLE-2: `tree(eagle2)`.
    """

    name: str = "eagle1"


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Eagle1:
    return make_chain(Eagle1, "eagle1", HeadKind.EAGLE1, given, options)


METHOD = DrafterMethod(
    name="eagle1",
    cls=Eagle1,
    summary="a trained head that predicts the next final state of the target",
    paper=Paper("EAGLE", "2401.15077"),
    needs="a head of EAGLE-1 for the target",
    memory="the head and its cache, and the final states of the target",
    make=_make,
    priors=chain_priors,
    models=1,
    head=True,
)
