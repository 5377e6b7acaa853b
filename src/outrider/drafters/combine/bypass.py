"""A qualifier that can be bypassed: the same nesting drafts with two tiers or with three."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from outrider.core.counters import Counters
from outrider.core.errors import StrategyError
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified
from outrider.drafters.combine.pyramid import Qualified, QualifiedState, qualified
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.model import ModelDrafter
from outrider.policies import Source
from outrider.protocols import Drafter, Needs, Request
from outrider.protocols.method import Paper, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """Drafts through the qualifier, or directly with the drafter below it.

    The policy chooses one of the two in each round with the shares of its budget: the qualifier's
    name represents the whole pyramid, the origin of the inner drafter two tiers. If both have a
    share, or if there are no shares, the qualifier is used. A tier that is bypassed still commits,
    and reads the tokens it missed when it is used again; each model has one cache in both cases.
    When the qualifier is off (for example because its window is full), the drafter below continues
    alone.

    Drafts from the drafter below carry neither distribution nor reference, so the outer rule must
    read neither (`Match`).
    """

    qualified: Qualified

    draw = Draw.IID
    gives = Needs()

    @property
    def name(self) -> str:
        """The name of the qualifier."""
        return self.qualified.name

    @property
    def learns(self) -> bool:
        """Whether the nested drafter learns from rows."""
        return self.qualified.learns

    @property
    def origins(self) -> tuple[str, str]:
        """The origins of its drafts: through the qualifier, and directly from below."""
        return self.name, self.below

    @property
    def below(self) -> str:
        """The origin of drafts that bypass the qualifier."""
        return self.qualified.drafter.origins[0]

    def bind(self, needs: Needs, tier: int) -> "Bypass":
        """Bind the nested drafter. Raises `StrategyError` if distributions or references are
        needed."""
        if needs != Needs():
            raise StrategyError(
                "a qualifier that can be bypassed supplies neither distributions nor references",
                hint="Use Qualified itself, or Match as the rule",
            )
        return replace(self, qualified=self.qualified.bind(needs, tier))

    def begin(
        self, requests: Sequence[Request], previous: Sequence[QualifiedState | None] | None = None
    ) -> list[QualifiedState]:
        """Create the states of the nested drafter."""
        return self.qualified.begin(requests, previous)

    def propose(
        self,
        states: Sequence[QualifiedState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Return one draft per request, made in the way that its budget selects."""
        drafts = [EMPTY_DRAFT] * len(states)
        through, straight = self._ways(states, budgets)
        if through:
            proposed = self.qualified.propose(
                [states[i] for i in through],
                [tails[i] for i in through],
                [budgets[i] for i in through],
            )
            for i, draft in zip(through, proposed, strict=True):
                drafts[i] = draft
        if straight:
            proposed = self.qualified.drafter.propose(
                [sequence.state for i in straight if (sequence := states[i].sequence) is not None],
                [tails[i] for i in straight],
                [self._straight(states[i], budgets[i]) for i in straight],
            )
            for i, draft in zip(straight, proposed, strict=True):
                drafts[i] = draft
        return drafts

    def observe(self, states: Sequence[QualifiedState], verified: Sequence[Verified]) -> None:
        """Pass the verification on to the nested drafter."""
        self.qualified.observe(states, verified)

    def commit(self, states: Sequence[QualifiedState], tokens: Sequence[IntArray]) -> None:
        """Commit the tokens at the qualifier and at the drafter below."""
        self.qualified.commit(states, tokens)

    def counters(self, state: QualifiedState) -> dict[str, Counters]:
        """Return the counters of the qualifier, followed by those of the drafter below."""
        return self.qualified.counters(state)

    def _straight(self, state: QualifiedState, budget: Budget) -> Budget:
        """Return the budget of the drafter below; if the qualifier is off, this drafter also gets
        its share.
        """
        if state.off is None:
            return budget
        whole = Budget.chain(max(budget.share(self.name), budget.share(self.below)))
        return replace(whole, reading=budget.reading, meanwhile=budget.meanwhile)

    def _ways(
        self, states: Sequence[QualifiedState], budgets: Sequence[Budget]
    ) -> tuple[list[int], list[int]]:
        """Return the requests that go through the qualifier, and the requests that bypass it."""
        through: list[int] = []
        straight: list[int] = []
        for i, (state, budget) in enumerate(zip(states, budgets, strict=True)):
            if budget.share(self.name) > 0 and state.off is None:
                through.append(i)
            elif state.sequence is not None:
                straight.append(i)
        return through, straight


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Bypass:
    qualifiers, draft = given.qualifiers("bypass"), given.draft_model("bypass")
    nest = qualified(ModelDrafter(model=draft), qualifiers[0], given, "qualifier")
    return Bypass(qualified=nest)


def _priors(drafter: Bypass, given: Given) -> tuple[Source, ...]:
    nest = drafter.qualified
    return (*given.priors_of(nest.drafter), *given.priors_of(nest))


METHOD = DrafterMethod(
    name="bypass",
    cls=Bypass,
    summary="the draft model, verified by the largest qualifier in rounds where this is faster",
    paper=Paper("PyramidSD", "2510.12966"),
    needs="a draft model and a qualifier",
    memory="both models and their caches",
    make=_make,
    priors=_priors,
    models=2,
)
