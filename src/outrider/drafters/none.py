"""The drafter that proposes nothing: plain decoding, the baseline of all comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.counters import Counters
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.policies import Source
from outrider.protocols import DrafterState, Needs, Request


@dataclass(frozen=True, slots=True)
class NoDrafter:
    """Proposes empty drafts, so every round emits exactly one token of the target."""

    name: str = "none"
    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True, reference=True)
    learns = False

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "NoDrafter":
        """Return the drafter unchanged: without drafts, no field can be missing."""
        return self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[None]:
        """Return None for each request, because no state is needed."""
        return [None] * len(requests)

    def propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return an empty draft for each request."""
        return [EMPTY_DRAFT] * len(states)

    def observe(self, states: Sequence[DrafterState], verified: Sequence[Verified]) -> None:
        """Do nothing: there is no state to update."""

    def commit(self, states: Sequence[DrafterState], tokens: Sequence[IntArray]) -> None:
        """Do nothing: there is no state to update."""

    def counters(self, state: DrafterState) -> dict[str, Counters]:
        """Empty: there are no inner tiers."""
        return {}


def _priors(drafter: NoDrafter, given: Given) -> tuple[Source, ...]:
    return ()


METHOD = DrafterMethod(
    name="none",
    cls=NoDrafter,
    summary="decoding without drafting",
    priors=_priors,
)
