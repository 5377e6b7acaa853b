"""The drafter that proposes nothing: plain decoding, and the baseline of everything."""

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
    """Every round verifies an empty draft and so emits one token of the target."""

    name: str = "none"
    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True, reference=True)
    learns = False

    @property
    def origins(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "NoDrafter":
        """Nothing is drafted, so nothing is missing."""
        return self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[None]:
        """No state."""
        return [None] * len(requests)

    def propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Empty drafts."""
        return [EMPTY_DRAFT] * len(states)

    def observe(self, states: Sequence[DrafterState], verified: Sequence[Verified]) -> None:
        """Nothing to learn."""

    def commit(self, states: Sequence[DrafterState], tokens: Sequence[IntArray]) -> None:
        """Nothing to remember."""

    def counters(self, state: DrafterState) -> dict[str, Counters]:
        """Nothing was counted."""
        return {}


def _priors(drafter: NoDrafter, given: Given) -> tuple[Source, ...]:
    return ()


METHOD = DrafterMethod(
    name="none",
    cls=NoDrafter,
    summary="undrafted decoding",
    priors=_priors,
)
