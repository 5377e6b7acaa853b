"""CopySpec: find an earlier occurrence of the last few tokens and copy what followed it.

Dumitru et al., arXiv 2502.08923. In contrast to `Lookup`, it uses only one match length (gamma),
finds it with a rolling hash in constant time, and copies a fixed number of tokens. A longer
conversation contains more text to copy, so the gain grows from turn to turn.
"""

from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray
from outrider.drafters.copying.copies import Copier, chain, copied
from outrider.drafters.copying.lookup import LookupState, check_occurrence, indexed
from outrider.drafters.given import Given
from outrider.drafters.method import LONGEST_COPY, DrafterMethod, copies, matched
from outrider.policies import Source
from outrider.protocols import Request
from outrider.protocols.method import Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySpec(Copier[LookupState]):
    """Proposes the tokens that followed an earlier occurrence of the last `match_length` tokens.

    The published code trusts the hash and uses the first occurrence; here the tokens are compared
    after a hash match. A copy ends where the known text ends, so a draft may be shorter than
    `copy_length`. If nothing is found, another drafter can propose (`Fallback`), as in the paper.

    Attributes:
        match_length: number of tokens that must be equal (gamma).
        copy_length: largest number of tokens copied.
        occurrence: `first`, as published, or `latest`.
        name: the source and origin of its drafts.

    Raises:
        OptionError: a length below 1, or an unknown occurrence.
    """

    match_length: int = 3
    copy_length: int = 10
    occurrence: str = "first"
    name: str = "copyspec"

    def __post_init__(self) -> None:
        if min(self.match_length, self.copy_length) < 1:
            raise OptionError(
                f"match_length is {self.match_length} and copy_length {self.copy_length}",
                hint="Give at least 1 for both",
            )
        check_occurrence(self.occurrence)

    def _begin(self, request: Request, old: LookupState | None) -> LookupState:
        lengths = range(self.match_length, self.match_length + 1)
        return LookupState(request.sampler.end_ids, indexed(request, lengths, self.occurrence, old))

    def _draft(self, state: LookupState, tail: IntArray, budget: Budget) -> Draft:
        size = min(budget.share(self.name), budget.nodes, self.copy_length)
        if size < 1:
            return EMPTY_DRAFT
        rest = tail.tolist() if len(tail) else []
        hit = state.index.find(rest)
        if hit is None:
            return EMPTY_DRAFT
        tokens = copied(state.index.text, rest, hit.place, size, repeat=False)
        return chain(tokens, state.ends, self.name, origin=self.name, match=hit.length)

    def _commit(self, state: LookupState, tokens: list[int]) -> None:
        state.index.extend(tokens)


def _priors(drafter: CopySpec, given: Given) -> tuple[Source, ...]:
    return (copies(drafter.name, matched(drafter.match_length), drafter.copy_length),)


METHOD = DrafterMethod(
    name="copyspec",
    cls=CopySpec,
    summary="prompt lookup by one hash of the last three tokens; copies long passages",
    paper=Paper("CopySpec", "2502.08923"),
    memory="100n",
    defaults={"copy_length": LONGEST_COPY},
    priors=_priors,
)
