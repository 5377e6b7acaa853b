"""What combinators of two drafters share: names, promises, states, and who is told what when."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outrider.core.counters import Counters
from outrider.core.errors import StrategyError
from outrider.core.types import Budget, Draft, Draw, IntArray, Verified
from outrider.decoding import Deferred, DeferredState
from outrider.drafters.given import Given
from outrider.policies import Source
from outrider.protocols import Drafter, DrafterState, Needs, Request


@dataclass(slots=True)
class PairState:
    """One request at both drafters; the second begins when it is first asked."""

    first: DrafterState
    second: DeferredState


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two drafters that see every commit; subclasses say whose draft is taken.

    The second begins when it is first asked, unless it learns from rows: to read a prompt with a
    model that then is never asked would be for nothing.

    Raises:
        StrategyError: the two share a name, which would mix up their counters.
    """

    first: Drafter
    second: Drafter
    _origins: tuple[tuple[str, ...], tuple[str, ...]] = field(init=False, repr=False)
    _deferred: Deferred = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_deferred", Deferred(drafter=self.second))
        object.__setattr__(self, "_origins", (self.first.origins, self.second.origins))
        if self.first.name == self.second.name:
            raise StrategyError(
                f"both drafters are named {self.first.name!r}", hint="Name one of them otherwise"
            )

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first.name}+{self.second.name}"

    @property
    def origins(self) -> tuple[str, ...]:
        """Those of both."""
        return (*self._origins[0], *self._origins[1])

    @property
    def draw(self) -> Draw:
        """The least certain of the two ways: a rule must be able to judge either."""
        order = list(Draw)
        return max(self.first.draw, self.second.draw, key=order.index)

    @property
    def gives(self) -> Needs:
        """What both can give."""
        a, b = self.first.gives, self.second.gives
        return Needs(probs=a.probs and b.probs, reference=a.reference and b.reference)

    @property
    def learns(self) -> bool:
        """Whether either does."""
        return self.first.learns or self.second.learns

    def bind(self, needs: Needs, tier: int) -> "Pair":
        """Bind both."""
        first, second = (drafter.bind(needs, tier) for drafter in (self.first, self.second))
        return replace(self, first=first, second=second)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[PairState | None] | None = None
    ) -> list[PairState]:
        """A state of each drafter for each request."""
        old = [s if isinstance(s, PairState) else None for s in previous or ()]
        old += [None] * (len(requests) - len(old))
        firsts = self.first.begin(requests, [s and s.first for s in old])
        seconds = self._deferred.begin(requests, [s and s.second for s in old])
        return [PairState(*pair) for pair in zip(firsts, seconds, strict=True)]

    @abstractmethod
    def propose(
        self, states: Sequence[PairState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """One draft a request, out of those of both."""

    def observe(self, states: Sequence[PairState], verified: Sequence[Verified]) -> None:
        """Both learn, whoever drafted."""
        self.first.observe([s.first for s in states], verified)
        self._deferred.observe([s.second for s in states], verified)

    def commit(self, states: Sequence[PairState], tokens: Sequence[IntArray]) -> None:
        """Both take note; a second drafter that is rarely asked does so when it is."""
        self.first.commit([s.first for s in states], tokens)
        self._deferred.commit([s.second for s in states], tokens)

    def counters(self, state: PairState) -> dict[str, Counters]:
        """What the tiers inside either counted."""
        return self.first.counters(state.first) | self._deferred.counters(state.second)

    def _wanted(self, budgets: Sequence[Budget], second: bool) -> list[bool]:
        """Which of `budgets` leave the second drafter (or the first) anything."""
        named = self._origins[second]
        return [
            budget.depth > 0
            and (budget.shares is None or any(budget.shares.get(origin, 1) for origin in named))
            for budget in budgets
        ]

    def _ask_first(
        self, states: Sequence[PairState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        return self.first.propose([s.first for s in states], tails, budgets)

    def _ask_second(
        self, states: Sequence[PairState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        return self._deferred.propose([s.second for s in states], tails, budgets)


def pair_priors(drafter: Pair, given: Given) -> tuple[Source, ...]:
    """What is believed of both."""
    return (*given.priors_of(drafter.first), *given.priors_of(drafter.second))
