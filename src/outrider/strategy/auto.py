"""The default strategy: chooses the drafter and the draft length from measured costs.

Costs of forwards are measured once, when the models are loaded. The policy then decides in each
round which source drafts, how many tokens, and whether to draft at all, from the tokens accepted so
far (`policies/expected_gain.py`). The text equals that of undrafted decoding whatever the policy
decides, so estimates are sufficient.
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
    Successors,
    TokenRecycling,
)
from outrider.drafters.combine.pyramid import qualified
from outrider.drafters.given import ASKING, Costs, Given
from outrider.drafters.heads.chimera import chimera_of
from outrider.drafters.heads.clover import Clover
from outrider.drafters.heads.eagle1 import Eagle1
from outrider.drafters.heads.eagle3 import Eagle3
from outrider.drafters.heads.fspad import Fspad
from outrider.drafters.heads.hinted import Hinted
from outrider.drafters.heads.medusa import medusa_of
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.growth import Growth
from outrider.drafters.neural.universal import Universal
from outrider.memories.store import Datastore
from outrider.models.costs import BATCHES, measure_costs
from outrider.models.heads.chimera.model import ChimeraModel
from outrider.models.heads.config import HeadKind
from outrider.models.heads.medusa.model import MedusaModel
from outrider.models.heads.model import HeadModel
from outrider.models.wrappers.foreign import ForeignModel
from outrider.policies.pauses import NOTICEABLE
from outrider.policies.windows import Chances, best_windows
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy, LanguageModel, Request
from outrider.protocols.method import Paper, Value
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.catalogue import drafter_record
from outrider.strategy.making import make_drafter, with_priors
from outrider.strategy.strategy import Strategy

FURTHER_TIER = 0.1
"""Minimum extra gain for which a qualifier is added: it must also read the prompt."""

_ROWS_LEARNED = 8
"""Rows of a long copy that Token Recycling learns from, when it is a fallback after lookups."""

_SUCCESSORS = 1e-4
"""Seconds of a round that `Successors` need."""

_OVERHEAD_PROMPT, _OVERHEAD_ROUNDS = 16, 12


def measured_costs(target: LanguageModel) -> Costs:
    """Measure what forwards and rounds of the target cost on this machine."""
    return Costs(measure_costs(target, together=BATCHES), round_overhead(target))


@dataclass(frozen=True, slots=True)
class Automatic:
    """Builds adaptive strategies for one target and its smaller models.

    Attributes:
        target: the model whose text is wanted.
        below: smaller models, the largest first; the last one drafts.
        chances: prior acceptance estimates of the smaller models.
        costs: costs of the target; measured if not given.
        datastore: the opened store for drafters that retrieve from one.
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
        """Build a strategy whose draft sizes follow the expected gain.

        The strategy does not draft if the target's window is too short for the measurement.

        Args:
            drafter: a name, an expression, or a built drafter.
            rule: how the target accepts; None is `Match`.
            gain: settings of `ExpectedGain` that replace its defaults.
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
        """Build a strategy with the given policy, without measuring costs."""
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
    """Return the policy of a drafter that brings its own, else None."""
    return drafter_record(asked.name).policy


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Drafter:
    """Choose drafters: copies, then the smaller models; without a smaller model `Successors`, or
    copies and Token Recycling for very small targets; with a head `Successors`, then the head.
    """
    if given.costs is None:  # draft sizes are fixed
        if not given.below:
            return Lookup(min_ngram=1)
        if isinstance(given.below[-1], ForeignModel):
            return Universal(model=given.below[-1])
        return make_drafter(Expression("pyramid" if len(given.below) > 1 else "model"), given)
    round_seconds = given.costs.target.seconds(1) + given.costs.overhead
    if not given.below and NOTICEABLE * round_seconds > _SUCCESSORS:
        return Successors()  # recycled tokens gained nothing beside it, and took 3 % of a round
    if given.below and isinstance(head := given.below[-1], HeadModel):
        copies = Successors()
        if head.followers is not None:
            copies.remember(head.followers, head.info.vocab_size)
        return Fallback(first=copies, second=head_drafter(head, given.draft_seconds(head)))
    copies = _copies(round_seconds)
    if not given.below:
        return Fallback(first=copies, second=TokenRecycling(most_rows=_ROWS_LEARNED))
    draft = _draft(given.below[-1])
    qualifier = _qualifier(given)
    if qualifier is None:
        return Fallback(first=copies, second=draft)
    nest = qualified(draft, qualifier, given, "qualifier")
    return Fallback(first=copies, second=Bypass(qualified=nest))


def _draft(model: LanguageModel) -> Drafter:
    """Return the drafter of chains of a model, with or without the target's vocabulary."""
    return Universal(model=model) if isinstance(model, ForeignModel) else ModelDrafter(model=model)


def head_drafter(head: HeadModel, seconds: float) -> Drafter:
    """Return the drafter of a head, which counts its tokens under the name of its kind.

    Args:
        head: the head.
        seconds: measured seconds of a token of a draft.
    """
    match head.config.kind:
        case HeadKind.HINTED:
            return Hinted(model=head, seconds=seconds)
        case HeadKind.EAGLE3:
            return Eagle3(model=head, seconds=seconds)
        case HeadKind.EAGLE1:
            return Eagle1(model=head, seconds=seconds)
        case HeadKind.FSPAD:
            return Fspad(model=head, seconds=seconds)
        case HeadKind.CLOVER:
            return Clover(model=head, seconds=seconds)
        case HeadKind.MTP:
            return ModelDrafter(model=head, name="mtp")
        case HeadKind.MEDUSA:
            assert isinstance(head, MedusaModel)  # no other model has heads of this kind
            return medusa_of(head)
        case HeadKind.CHIMERA:
            assert isinstance(head, ChimeraModel)
            return chimera_of(head)


def _copies(round_seconds: float) -> Lookup:
    """Prompt lookup; requires three matching tokens where a lookup costs a noticeable share of a
    round.
    """
    return Lookup(min_ngram=1 if NOTICEABLE * round_seconds > ASKING else 3)


def _qualifier(given: Given) -> LanguageModel | None:
    """Return the qualifier with the largest expected gain, or None if no gain is large enough."""
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
    """Measure the seconds of an undrafted round, without the forward and the choice of the token.

    The choice is left out because every token needs one, drafted or not. The result is the mean
    over a short text that is then discarded.
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
    summary="the automatic choice: prompt lookup, then the draft model; without a draft model "
    "successors, or for very small models prompt lookup and recycled tokens",
    memory="of its parts",
    paper=Paper("expected gain: Leviathan et al. 2023", "2211.17192"),
    make=_make,
)
