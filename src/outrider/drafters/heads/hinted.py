"""A trained head that also reads a hint: what followed the last tokens earlier in the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.drafters.given import Given
from outrider.drafters.heads.chain import HeadChain, chain_priors, make_chain
from outrider.drafters.method import DrafterMethod
from outrider.models.heads.config import HeadKind
from outrider.protocols import Drafter
from outrider.protocols.method import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Hinted(HeadChain):
    """Drafts chains with a head of kind `hinted` (`models/heads`).

    The input of a row is a sum of three linear maps: of the target's states at the place before
    (in later steps, of the output of the row before), of the embedding of the token, and of the
    embedding of a hint, which is the successor of the last two tokens earlier in the text, else of
    the last one, else the most frequent one in other answers of the target. One layer in the shape
    of the target follows. A small head can not store what the text itself shows; the hint is
    one more input, and the weights give it more or less influence. The hint can be drafted although
    the draft vocabulary lacks it.

    As far as the authors know, heads with hints are not published elsewhere.
    """

    name: str = "hinted"


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Hinted:
    return make_chain(Hinted, "hinted", HeadKind.HINTED, given, options)


METHOD = DrafterMethod(
    name="hinted",
    cls=Hinted,
    summary="a trained head on states of the target that also reads what followed earlier",
    needs="a head of kind hinted, from `outrider train head`; one for SmolLM2 ships",
    memory="the head and its cache, and states of the target",
    make=_make,
    priors=chain_priors,
    models=1,
    head=True,
)
