"""Drafters that begin late and commit late: a round without a draft costs them nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from outrider.core.counters import Counters
from outrider.core.types import Budget, Draft, IntArray, Verified, as_ids
from outrider.decoding.wrapping import WrappedDrafter
from outrider.protocols import DrafterState, Request


@dataclass(slots=True)
class DeferredState:
    """One request.

    Attributes:
        request: what the drafter begins with.
        inner: its state once it has `begun`; until then its state in the turn before, or None.
        begun: whether it has read the prompt.
        owed: tokens that were emitted, and that it is told of before it is next asked.
    """

    request: Request
    inner: DrafterState = None
    begun: bool = False
    owed: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred(WrappedDrafter):
    """`drafter`, which begins with a request when it is first asked for a draft of it.

    It is told of emitted tokens when it is next asked. A prompt that it need not know is not read,
    or indexed, for nothing, and short rounds are not made longer. A drafter that learns from rows
    begins, and is told, at once: the next row follows these very tokens.
    """

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[DeferredState]:
        """A state for each request; tokens of the turn before are passed on first."""
        old = list(previous or [None] * len(requests))
        self.settle([state for state in old if state is not None])
        states = [
            DeferredState(request, before and before.inner)
            for request, before in zip(requests, old, strict=True)
        ]
        if self.learns:
            self._begin(states)
        return states

    def propose(
        self,
        states: Sequence[DeferredState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """One draft a request. Seconds of beginning are noted in `Draft.once`."""
        once = self._begin([state for state in states if not state.begun])
        self.settle(states)
        drafts = self.drafter.propose([state.inner for state in states], tails, budgets)
        if not once:
            return drafts
        return [replace(draft, once=draft.once + once / len(drafts)) for draft in drafts]

    def observe(self, states: Sequence[DeferredState], verified: Sequence[Verified]) -> None:
        """Let a drafter learn that does; it has begun with every request."""
        if self.learns:
            self.drafter.observe([state.inner for state in states], verified)

    def commit(self, states: Sequence[DeferredState], tokens: Sequence[IntArray]) -> None:
        """Note what was emitted, for the next time that the drafter is asked."""
        for state, emitted in zip(states, tokens, strict=True):
            state.owed += emitted.tolist()
        if self.learns:
            self.settle(states)

    def counters(self, state: DeferredState) -> dict[str, Counters]:
        """What the tiers inside counted; nothing before they have begun."""
        return self.drafter.counters(state.inner) if state.begun else {}

    def settle(self, states: Sequence[DeferredState]) -> None:
        """Tell the drafter what it has not been told yet, of requests that it has begun."""
        if owing := [state for state in states if state.owed and state.begun]:
            self.drafter.commit([s.inner for s in owing], [as_ids(s.owed) for s in owing])
            for state in owing:
                state.owed = []

    def _begin(self, states: Sequence[DeferredState]) -> float:
        """Begin with these requests; returns the seconds that it took."""
        if not states:
            return 0.0
        started = perf_counter()
        inner = self.drafter.begin([s.request for s in states], [s.inner for s in states])
        for state, own in zip(states, inner, strict=True):
            state.inner, state.begun = own, True
        return perf_counter() - started
