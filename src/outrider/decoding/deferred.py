"""Drafters that begin and commit only when they are needed: rounds without a draft cost nothing.

An error of a drafter ends drafting for the requests of the call, if a guard takes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from outrider.core.counters import Counters
from outrider.core.errors import in_short
from outrider.core.tree import check_parents
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, IntArray, Verified
from outrider.decoding.wrapping import WrappedDrafter
from outrider.policies.guard import Guard
from outrider.protocols import DrafterState, Request


@dataclass(slots=True)
class DeferredState:
    """The state of one request.

    Attributes:
        request: the request that the drafter begins with.
        inner: the drafter's state once it has `begun`; before that, its state of the previous turn,
            or None.
        begun: whether the drafter has read the prompt.
        owed: emitted tokens that are not yet committed to the drafter; they are committed before it
            proposes again.
        off: the error after which the drafter is not called any more for the request.
    """

    request: Request
    inner: DrafterState = None
    begun: bool = False
    owed: list[IntArray] = field(default_factory=list[IntArray])
    off: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred(WrappedDrafter):
    """Delays `begin` and `commit` of `drafter` until it proposes for the request.

    A prompt that is never drafted for is therefore neither read nor indexed, and rounds without a
    draft do not become longer. A drafter that learns from rows begins and commits immediately,
    because the next row follows exactly these tokens.

    Attributes:
        guard: what counts errors of the drafter; None lets them end the round.
    """

    guard: Guard | None = None

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[DeferredState]:
        """Create a state for each request; tokens left over from the previous turn are committed
        first."""
        old = list(previous or [None] * len(requests))
        self.settle([state for state in old if state is not None])
        states = [
            DeferredState(request, before.inner if before and before.off is None else None)
            for request, before in zip(requests, old, strict=True)
        ]
        if self.learns:
            try:
                self._begin(states)
            except Exception as error:
                self.failed(states, error)
        return states

    def propose(
        self,
        states: Sequence[DeferredState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Propose one draft per request, none after an error, such as a malformed draft. The
        seconds spent on `begin` are stored in `Draft.once`."""
        try:
            return self._propose(states, tails, budgets)
        except Exception as error:
            self.failed(states, error)
            return [EMPTY_DRAFT] * len(states)

    def _propose(
        self,
        states: Sequence[DeferredState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        once = self._begin([state for state in states if not state.begun])
        self._settle(states)
        drafts = self.drafter.propose([state.inner for state in states], tails, budgets)
        _check(drafts, len(states))
        if not once:
            return drafts
        return [replace(draft, once=draft.once + once / len(drafts)) for draft in drafts]

    def observe(self, states: Sequence[DeferredState], verified: Sequence[Verified]) -> None:
        """Pass the rows to a drafter that learns; such a drafter has begun with every request."""
        pairs = [p for p in zip(states, verified, strict=True) if p[0].off is None]
        if not self.learns or not pairs:
            return
        live = [state for state, _ in pairs]
        try:
            self.drafter.observe([state.inner for state in live], [seen for _, seen in pairs])
        except Exception as error:
            self.failed(live, error)

    def commit(self, states: Sequence[DeferredState], tokens: Sequence[IntArray]) -> None:
        """Store the emitted tokens until the drafter proposes again."""
        for state, emitted in zip(states, tokens, strict=True):
            if state.off is None:
                state.owed.append(emitted)
        if self.learns:
            self.settle(states)

    def counters(self, state: DeferredState) -> dict[str, Counters]:
        """Return the counters of the tiers inside the drafter; empty until it has begun, and after
        an error."""
        return self.drafter.counters(state.inner) if state.begun and state.off is None else {}

    def settle(self, states: Sequence[DeferredState]) -> None:
        """Commit the stored tokens to the drafter, for requests that it has begun."""
        try:
            self._settle(states)
        except Exception as error:
            self.failed(states, error)

    def _settle(self, states: Sequence[DeferredState]) -> None:
        if owing := [state for state in states if state.owed and state.begun]:
            self.drafter.commit([s.inner for s in owing], [_joined(s.owed) for s in owing])
            for state in owing:
                state.owed = []

    def forget(self, state: DeferredState, output: IntArray) -> None:
        """Drop the drafter's state of a request, which has emitted `output`. A drafter that learns
        keeps it, since it observes every row."""
        if state.begun and not self.learns:
            state.inner, state.begun, state.owed = None, False, [output]

    def failed(self, states: Sequence[DeferredState], error: Exception) -> None:
        """End drafting for these requests after an error of the drafter, and tell the guard. Raises
        the error if there is no guard, or no request."""
        live = [state for state in states if state.off is None]
        if self.guard is None or not live:
            raise error
        for state in live:
            state.off = in_short(error)
            state.owed = []
        self.guard.failed(error)

    def _begin(self, states: Sequence[DeferredState]) -> float:
        """Begin with these requests; return the seconds that this takes."""
        if not states:
            return 0.0
        started = perf_counter()
        inner = self.drafter.begin([s.request for s in states], [s.inner for s in states])
        for state, own in zip(states, inner, strict=True):
            state.inner, state.begun = own, True
        return perf_counter() - started


def _check(drafts: Sequence[Draft], count: int) -> None:
    """Raise `ValueError` unless these are `count` drafts whose parents come before children."""
    if len(drafts) != count:
        raise ValueError(f"the drafter made {len(drafts)} drafts for {count} requests")
    for draft in drafts:
        if len(draft.tokens) != len(draft.parents):
            raise ValueError(
                f"a draft has {len(draft.tokens)} tokens and {len(draft.parents)} parents"
            )
        if draft.tokens.dtype.kind not in "iu":
            raise ValueError(f"a draft has tokens of type {draft.tokens.dtype}, not integers")
        check_parents(draft.parents)


def _joined(parts: Sequence[IntArray]) -> IntArray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
