"""The default strategy: who drafts, and how far, from what forwards cost on this machine.

Costs are measured once, when the models are loaded. Which source drafts, how long, and whether any
does, is then decided round by round from what was accepted (`policies/expected_gain.py`). The text
is that of undrafted decoding in any case, so nothing here needs to be certain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from outrider.acceptance import Match
from outrider.core.expression import Expression
from outrider.core.types import Prompt
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters import (
    Bypass,
    Fallback,
    Lookup,
    ModelDrafter,
    TokenRecycling,
)
from outrider.drafters.combine.pyramid import qualified
from outrider.drafters.given import ASKING, Costs, Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.growth import Growth
from outrider.memories.store import Datastore
from outrider.models.costs import measure_costs
from outrider.policies.pauses import NOTICEABLE
from outrider.policies.windows import Chances, best_windows
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy, LanguageModel, Request
from outrider.protocols.method import Paper, Value
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.catalogue import drafter_record
from outrider.strategy.making import make_drafter, with_priors
from outrider.strategy.strategy import Strategy

FURTHER_TIER = 0.1
"""How much more a qualifier must promise before it takes part: its prompt has to be read, too."""

_ROWS_LEARNED = 8
"""Rows of a long copy that Token Recycling learns, in line behind lookups."""

_OVERHEAD_PROMPT, _OVERHEAD_ROUNDS = 16, 12


def measured_costs(target: LanguageModel) -> Costs:
    """What the target costs on this machine."""
    return Costs(measure_costs(target), round_overhead(target))


@dataclass(frozen=True, slots=True)
class Automatic:
    """Builds strategies that adapt, for one target and the models below it.

    Attributes:
        target: the model whose text is wanted.
        below: smaller models, the largest first; the last one drafts.
        chances: what is believed of them before they were tried.
        costs: the target's; measured when not given.
        datastore: what retrieving drafters read, opened.
        growth: how the draft model grows trees, for the drafter `tree`.
    """

    target: LanguageModel
    below: Sequence[LanguageModel] = ()
    chances: Chances = field(default_factory=Chances)
    costs: Costs | None = None
    datastore: Datastore | None = None
    growth: Growth | None = None

    def strategy(
        self,
        drafter: str | Expression | Drafter = "auto",
        rule: AcceptanceRule | None = None,
        gain: Mapping[str, Value] | None = None,
    ) -> Strategy:
        """A strategy whose drafts are as large as pays; undrafted where the target's window has no
        room to measure in.

        Args:
            drafter: a name, an expression, or a built drafter.
            rule: how the target accepts; None is `Match`.
            gain: settings of `ExpectedGain` other than its own.
        """
        if drafter == "none" or self.target.info.context_length < 3:
            return Strategy(target=self.target)
        given = self._given(self.costs or measured_costs(self.target))
        if isinstance(drafter, str):
            drafter = Expression.parse(drafter, "drafter")
        policy: DraftPolicy | None = None
        if isinstance(drafter, Expression):
            policy = _own_policy(drafter)
            drafter = make_drafter(drafter, given)
        if policy is None:
            policy = given.gain(given.measured.target, given.priors_of(drafter))
            policy = replace(policy, **gain or {})
        return Strategy(target=self.target, drafter=drafter, rule=rule or Match(), policy=policy)

    def fixed(
        self,
        drafter: str | Expression | Drafter,
        policy: DraftPolicy,
        rule: AcceptanceRule | None = None,
    ) -> Strategy:
        """A strategy with this policy; nothing is measured."""
        if isinstance(drafter, str):
            drafter = Expression.parse(drafter, "drafter")
        if isinstance(drafter, Expression):
            drafter = make_drafter(drafter, self._given(None))
        return Strategy(target=self.target, drafter=drafter, rule=rule or Match(), policy=policy)

    def _given(self, costs: Costs | None) -> Given:
        return with_priors(
            Given(
                target=self.target,
                below=self.below,
                growth=self.growth,
                datastore=self.datastore,
                costs=costs,
                chances=self.chances,
            )
        )


def _own_policy(asked: Expression) -> DraftPolicy | None:
    """The policy of a drafter that has one of its own."""
    return drafter_record(asked.name).policy


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Drafter:
    """Copies first; where there are none the models below, else recycled rows of the target."""
    if given.costs is None:  # sizes are fixed
        if not given.below:
            return Lookup(min_ngram=1)
        return make_drafter(Expression("pyramid" if len(given.below) > 1 else "model"), given)
    copies = _copies(given.costs)
    if not given.below:
        return Fallback(first=copies, second=TokenRecycling(most_rows=_ROWS_LEARNED))
    draft = ModelDrafter(model=given.below[-1])
    qualifier = _qualifier(given)
    if qualifier is None:
        return Fallback(first=copies, second=draft)
    nest = qualified(draft, qualifier, given, "qualifier")
    return Fallback(first=copies, second=Bypass(qualified=nest))


def _copies(costs: Costs) -> Lookup:
    """Lookups; where a round is so short that asking is dear, after three matching tokens only."""
    round_seconds = costs.target.seconds(1) + costs.overhead
    return Lookup(min_ngram=1 if NOTICEABLE * round_seconds > ASKING else 3)


def _qualifier(given: Given) -> LanguageModel | None:
    """The qualifier that promises most, if one promises enough."""
    costs, each = given.measured, given.draft_seconds(given.below[-1])
    best, chosen = 0.0, None
    for qualifier in given.below[:-1]:
        windows = best_windows(
            costs.target.plus(2 * costs.overhead),
            given.qualifier_costs(qualifier).plus(2 * costs.overhead),
            each,
            given.chances,
            FURTHER_TIER,
        )
        if len(windows.lengths) == 2 and windows.speed > best:
            best, chosen = windows.speed, qualifier
    return chosen


def round_overhead(target: LanguageModel) -> float:
    """Seconds that an undrafted round takes beside the forward and the choice of its token.

    The choice is left out because every token has one, drafted or not. The mean over a short text
    that nobody reads.
    """
    prompt = Prompt(token_ids=(0,) * min(_OVERHEAD_PROMPT, target.info.context_length - 2))
    sampler = Sampler(SamplingParams(max_new_tokens=_OVERHEAD_ROUNDS, seed=0))
    generation = Generation(Request(prompt, sampler))
    for _ in generate(Strategy(target=target).stage, [generation]):
        pass
    spent = generation.counters.seconds
    models = sum(spent.get(part, 0.0) for part in ("prefill", "verify", "accept"))
    elapsed = generation.ended - generation.begun
    return max(elapsed - models, 0.0) / max(generation.counters.rounds, 1)


METHOD = DrafterMethod(
    name="auto",
    cls=Fallback,
    summary="whatever is expected to be fastest, decided while writing: copies, then the draft "
    "model where there is one, else recycled rows",
    memory="of its parts",
    paper=Paper("expected gain: Leviathan et al. 2023", "2211.17192"),
    make=_make,
)
