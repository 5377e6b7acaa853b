"""FSPAD: EAGLE with a token that is mixed into the state, and with logits that may leave it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.drafters.given import Given
from outrider.drafters.heads.chain import HeadChain, chain_priors, make_chain
from outrider.drafters.method import DrafterMethod
from outrider.models.heads.config import HeadKind
from outrider.protocols import Drafter
from outrider.protocols.method import Paper, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Fspad(HeadChain):
    """Drafts chains with a head of FSPAD (Gui et al. 2024, arXiv 2408.15562).

    A head of EAGLE with two more parts. Feature sampling mixes the token into the state in a wider
    space before both are fused. Partial alignment lets the logits leave the predicted state, so
    that the state can follow that of the target and the logits can be sure. Both parts begin at
    zero, where the head is one of EAGLE. The shapes of both parts are our choice.
    """

    name: str = "fspad"


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Fspad:
    return make_chain(Fspad, "fspad", HeadKind.FSPAD, given, options)


METHOD = DrafterMethod(
    name="fspad",
    cls=Fspad,
    summary="a trained head of EAGLE that mixes the token into the state and corrects logits",
    paper=Paper("FSPAD", "2408.15562"),
    needs='a head of FSPAD for the target, from `outrider train head` with kind = "fspad"',
    memory="the head and its cache, and the final states of the target",
    make=_make,
    priors=chain_priors,
    models=1,
    head=True,
)
