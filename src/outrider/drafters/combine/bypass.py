"""A qualifier that can be left out: the same nest drafts with two tiers or with three."""

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
    """Drafts through the qualifier, or straight from the drafter below it.

    Which of the two, the policy says round by round, by the shares of its budget: the qualifier's
    name stands for the whole pyramid, the inner drafter's for two tiers. Where both have one, the
    qualifier is asked; without shares always. A tier that is left out goes on committing, and
    reads what it missed when it is asked again; there is one cache of each model either way. Once
    the qualifier is off (its window is full, say) the drafter below goes on alone.

    What comes straight from below carries neither distribution nor reference, so only rules that
    read neither (`Match`) can stand outside.
    """

    qualified: Qualified

    draw = Draw.IID
    gives = Needs()

    @property
    def name(self) -> str:
        """The qualifier's."""
        return self.qualified.name

    @property
    def learns(self) -> bool:
        """What the nest does."""
        return self.qualified.learns

    @property
    def origins(self) -> tuple[str, str]:
        """What its drafts are booked under."""
        return self.name, self.below

    @property
    def below(self) -> str:
        """The name that stands for drafting without the qualifier."""
        return self.qualified.drafter.name

    def bind(self, needs: Needs, tier: int) -> "Bypass":
        """Bind the nest. Raises `StrategyError` when distributions or references are asked for."""
        if needs != Needs():
            raise StrategyError(
                "a qualifier that can be left out gives neither distributions nor references",
                hint="Use Qualified itself, or Match as the rule",
            )
        return replace(self, qualified=self.qualified.bind(needs, tier))

    def begin(
        self, requests: Sequence[Request], previous: Sequence[QualifiedState | None] | None = None
    ) -> list[QualifiedState]:
        """The states of the nest."""
        return self.qualified.begin(requests, previous)

    def propose(
        self,
        states: Sequence[QualifiedState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """One draft a request, by the way its budget asks for."""
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
        """The nest learns."""
        self.qualified.observe(states, verified)

    def commit(self, states: Sequence[QualifiedState], tokens: Sequence[IntArray]) -> None:
        """The nest takes note, all of it."""
        self.qualified.commit(states, tokens)

    def counters(self, state: QualifiedState) -> dict[str, Counters]:
        """The qualifier's counts, then those of the drafter below."""
        return self.qualified.counters(state)

    def _straight(self, state: QualifiedState, budget: Budget) -> Budget:
        """What the drafter below may draft; a qualifier that is off leaves it its share."""
        if state.off is None:
            return budget
        return Budget.chain(max(budget.share(self.name), budget.share(self.below)))

    def _ways(
        self, states: Sequence[QualifiedState], budgets: Sequence[Budget]
    ) -> tuple[list[int], list[int]]:
        """Requests that go through the qualifier, and those that pass it by."""
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
    summary="the draft model, through the largest qualifier in rounds where that pays",
    paper=Paper("PyramidSD", "2510.12966"),
    needs="a draft model and a qualifier",
    memory="both models and their caches",
    make=_make,
    priors=_priors,
    models=2,
)
