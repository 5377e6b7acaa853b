"""Two drafters in line: the second is asked where the first proposes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from outrider.counters import Counters
from outrider.errors import StrategyError
from outrider.protocols import Drafter, Needs, Request
from outrider.types import Budget, Draft, Draw, IntArray, Verified


@dataclass(frozen=True, slots=True)
class FallbackState:
    """One request at both drafters."""

    first: Any
    second: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Asks `first`; requests for which it has no draft ask `second`.

    Both see every verification and every commit, whoever drafted: a memory goes on learning, and a
    model reads what it missed when it is next asked. Nests, so that any number can stand in line.

    Attributes:
        first: asked for every request.
        second: asked for the requests that `first` left without a draft.

    Raises:
        StrategyError: the two share a name, which would mix up their counters.
    """

    first: Drafter
    second: Drafter

    def __post_init__(self) -> None:
        if self.first.name == self.second.name:
            raise StrategyError(
                f"both drafters are named {self.first.name!r}", hint="Name one of them otherwise"
            )

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first.name}+{self.second.name}"

    @property
    def draw(self) -> Draw:
        """The least certain of the two ways: a rule must be able to judge either."""
        order = list(Draw)
        return max(self.first.draw, self.second.draw, key=order.index)

    @property
    def gives(self) -> Needs:
        """What both can give."""
        a, b = self.first.gives, self.second.gives
        return Needs(law=a.law and b.law, reference=a.reference and b.reference)

    @property
    def learns(self) -> bool:
        """Whether either does."""
        return self.first.learns or self.second.learns

    def bind(self, needs: Needs, tier: int) -> "Fallback":
        """Bind both."""
        first, second = (drafter.bind(needs, tier) for drafter in (self.first, self.second))
        return replace(self, first=first, second=second)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[FallbackState | None] | None = None
    ) -> list[FallbackState]:
        """A state of each drafter for each request."""
        old = [s if isinstance(s, FallbackState) else None for s in previous or ()]
        old += [None] * (len(requests) - len(old))
        firsts = self.first.begin(requests, [s and s.first for s in old])
        seconds = self.second.begin(requests, [s and s.second for s in old])
        return [FallbackState(a, b) for a, b in zip(firsts, seconds, strict=True)]

    def propose(
        self,
        states: Sequence[FallbackState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """The first drafter's drafts, the gaps filled by the second."""
        drafts = list(self.first.propose([s.first for s in states], tails, budgets))
        gaps = [i for i, draft in enumerate(drafts) if not len(draft)]
        if gaps:
            filled = self.second.propose(
                [states[i].second for i in gaps],
                [tails[i] for i in gaps],
                [budgets[i] for i in gaps],
            )
            for i, draft in zip(gaps, filled, strict=True):
                drafts[i] = draft
        return drafts

    def observe(self, states: Sequence[FallbackState], verified: Sequence[Verified]) -> None:
        """Both learn, whoever drafted."""
        self.first.observe([s.first for s in states], verified)
        self.second.observe([s.second for s in states], verified)

    def commit(self, states: Sequence[FallbackState], tokens: Sequence[IntArray]) -> None:
        """Both take note."""
        self.first.commit([s.first for s in states], tokens)
        self.second.commit([s.second for s in states], tokens)

    def counters(self, state: FallbackState) -> dict[str, Counters]:
        """What the tiers inside either counted."""
        return self.first.counters(state.first) | self.second.counters(state.second)
