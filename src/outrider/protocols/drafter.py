"""Whatever proposes tokens."""

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
"""What one drafter keeps of one request. Each drafter has a type of its own, and nothing else reads
it: states are handed back to the drafter that made them."""


@runtime_checkable
class Drafter(Protocol):
    """Whatever proposes. State is passed in, never kept; all verbs take a list of requests."""

    @property
    def name(self) -> str:
        """The source its tokens are counted under."""
        ...

    @property
    def origins(self) -> tuple[str, ...]:
        """What its drafts are booked under (`Draft.origin`)."""
        ...

    @property
    def draw(self) -> Draw:
        """How it picks siblings."""
        ...

    @property
    def gives(self) -> Needs:
        """What its drafts can carry."""
        ...

    @property
    def learns(self) -> bool:
        """Whether it learns from rows in `observe`, so that its drafts may depend on tokens that a
        verifier turned down. Where an outer rule draws such tokens again by the same noise, the
        pairing is refused."""
        ...

    def bind(self, needs: Needs, tier: int) -> "Drafter":
        """The same drafter, made to fill what `needs` names, as tier `tier` (the target is 0).
        Raises `StrategyError` when it can not."""
        ...

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[DrafterState]:
        """One state a request. A state in `previous` is taken over: the next turn of a talk."""
        ...

    def propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """One draft a request. A tail is what inner rounds accepted but nobody committed yet."""
        ...

    def observe(self, states: Sequence[DrafterState], verified: Sequence[Verified]) -> None:
        """Learn from a verification; called once for every verifying tier, if it `learns`."""
        ...

    def commit(self, states: Sequence[DrafterState], tokens: Sequence[IntArray]) -> None:
        """Take note of emitted tokens; called by the outermost loop alone."""
        ...

    def counters(self, state: DrafterState) -> dict[str, Counters]:
        """What the tiers inside this drafter counted for one request, outermost first."""
        ...
