"""The base of combinators of two drafters: names, capabilities, states and forwarded calls."""

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
    """The states of one request at both drafters; the second begins when it first proposes."""

    first: DrafterState
    second: DeferredState


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two drafters that both receive every commit; subclasses decide whose draft is used.

    Unless it learns from rows, the second drafter begins only when it first proposes. A model that
    never proposes therefore reads no prompt.

    Raises:
        StrategyError: both drafters have the same name, which would mix their counters.
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
                f"both drafters are named {self.first.name!r}", hint="Give one of them another name"
            )

    @property
    def name(self) -> str:
        """The names of both drafters combined."""
        return f"{self.first.name}+{self.second.name}"

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of both drafters."""
        return (*self._origins[0], *self._origins[1])

    @property
    def draw(self) -> Draw:
        """The later of the two ways in the order of `Draw`: a rule must be able to judge either
        draft."""
        order = list(Draw)
        return max(self.first.draw, self.second.draw, key=order.index)

    @property
    def gives(self) -> Needs:
        """The optional fields that both drafters can supply."""
        a, b = self.first.gives, self.second.gives
        return Needs(probs=a.probs and b.probs, reference=a.reference and b.reference)

    @property
    def learns(self) -> bool:
        """Whether at least one of the drafters learns from rows."""
        return self.first.learns or self.second.learns

    def bind(self, needs: Needs, tier: int) -> "Pair":
        """Bind both drafters."""
        first, second = (drafter.bind(needs, tier) for drafter in (self.first, self.second))
        return replace(self, first=first, second=second)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[PairState | None] | None = None
    ) -> list[PairState]:
        """Create the states of both drafters for each request."""
        old = [s if isinstance(s, PairState) else None for s in previous or ()]
        old += [None] * (len(requests) - len(old))
        firsts = self.first.begin(requests, [s and s.first for s in old])
        seconds = self._deferred.begin(requests, [s and s.second for s in old])
        return [PairState(*pair) for pair in zip(firsts, seconds, strict=True)]

    @abstractmethod
    def propose(
        self, states: Sequence[PairState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one draft per request, made from the drafts of one or both drafters."""

    def observe(self, states: Sequence[PairState], verified: Sequence[Verified]) -> None:
        """Pass every verification to both drafters, regardless of which one drafted."""
        self.first.observe([s.first for s in states], verified)
        self._deferred.observe([s.second for s in states], verified)

    def commit(self, states: Sequence[PairState], tokens: Sequence[IntArray]) -> None:
        """Commit to both drafters; the second receives the tokens only when it proposes next."""
        self.first.commit([s.first for s in states], tokens)
        self._deferred.commit([s.second for s in states], tokens)

    def counters(self, state: PairState) -> dict[str, Counters]:
        """Return the counters of the tiers inside both drafters."""
        return self.first.counters(state.first) | self._deferred.counters(state.second)

    def _wanted(self, budgets: Sequence[Budget], second: bool) -> list[bool]:
        """Return which of `budgets` allow the second drafter (or the first) to draft."""
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
    """Return the priors of both drafters."""
    return (*given.priors_of(drafter.first), *given.priors_of(drafter.second))
