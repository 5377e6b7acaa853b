"""The contract of drafters: anything that proposes tokens."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from outrider.core.counters import Counters
from outrider.core.types import (
    Budget,
    Draft,
    Draw,
    IntArray,
    Verified,
)
from outrider.protocols.request import Request
from outrider.protocols.rule import Needs

DrafterState = Any
"""What a drafter stores for one request. Each drafter has its own state type. Only the drafter that
created a state reads it; all other code passes it through unchanged."""


@runtime_checkable
class Drafter(Protocol):
    """Proposes drafts. All state is passed in as arguments; every method works on a list of
    requests."""

    @property
    def name(self) -> str:
        """The source under which its tokens are counted."""
        ...

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins under which its drafts are counted (`Draft.origin`)."""
        ...

    @property
    def draw(self) -> Draw:
        """How the drafter selects the children of a node."""
        ...

    @property
    def gives(self) -> Needs:
        """Which optional fields (probabilities, reference) its drafts can carry."""
        ...

    @property
    def learns(self) -> bool:
        """Whether the drafter learns from rows in `observe`. Its drafts may then depend on tokens
        that a verifier rejected. The combination is an error where an outer rule would draw such
        tokens again with the same noise."""
        ...

    def bind(self, needs: Needs, tier: int) -> "Drafter":
        """Return the same drafter, configured to supply what `needs` names, as tier `tier` (the
        target is tier 0). Raises `StrategyError` when it cannot supply it."""
        ...

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[DrafterState]:
        """Return one state per request. A state in `previous`, for example from the previous turn
        of a conversation, is reused."""
        ...

    def propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one draft per request. A tail holds tokens that inner rounds accepted but that are
        not committed yet."""
        ...

    def observe(self, states: Sequence[DrafterState], verified: Sequence[Verified]) -> None:
        """Learn from a verification. Called once per verifying tier, and only if the drafter
        `learns`."""
        ...

    def commit(self, states: Sequence[DrafterState], tokens: Sequence[IntArray]) -> None:
        """Record emitted tokens. Only the outermost loop calls this method."""
        ...

    def counters(self, state: DrafterState) -> dict[str, Counters]:
        """Return the counters of the tiers inside this drafter for one request, outermost tier
        first.
        """
        ...
