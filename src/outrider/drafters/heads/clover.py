"""Clover-2: trained heads that read the token drafted before, as a recurrent network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.drafters.given import Given
from outrider.drafters.heads.chain import HeadChain, chain_priors, make_chain
from outrider.drafters.method import DrafterMethod
from outrider.models.heads.config import HeadKind
from outrider.protocols import Drafter
from outrider.protocols.method import Paper, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Clover(HeadChain):
    """Drafts chains with heads of Clover-2 (Xiao et al. 2024, arXiv 2408.00264).

    An augmenting block of decoder layers reads the target's final state and the token after it. Its
    result is the state of the draft. The first head reads that state; each later head first merges
    the token that was drafted before it into the state (the *regressive connection*). So a step of
    a draft has a few matrices and no attention. Such heads also draft trees: `tree(clover)` with
    the candidate policy of Clover, or `tree(eagle2)`.
    """

    name: str = "clover"


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Clover:
    return make_chain(Clover, "clover", HeadKind.CLOVER, given, options)


METHOD = DrafterMethod(
    name="clover",
    cls=Clover,
    summary="trained heads that merge the token drafted before into their state",
    paper=Paper("Clover-2", "2408.00264"),
    needs='heads of Clover for the target, from `outrider train head` with kind = "clover"',
    memory="the heads and their cache, and the final states of the target",
    make=_make,
    priors=chain_priors,
    models=1,
    head=True,
)
