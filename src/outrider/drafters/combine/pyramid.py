"""A drafter whose proposals a middle model has confirmed: PyramidSD by nesting.

PyramidSD (arXiv 2510.12966) lets a draft model write, a qualifier filter, and the target verify.
Here the qualifier's filtering is the very round the target runs, one level down, so a cascade of
any depth is `Qualified(Qualified(...))` and there is no second loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from outrider.acceptance.match import Match
from outrider.core.counters import Counters
from outrider.core.errors import StrategyError
from outrider.core.tree import chain_parents
from outrider.core.types import (
    EMPTY_DRAFT,
    Budget,
    Draft,
    Draw,
    Exactness,
    IntArray,
    Prompt,
    Rows,
    Verdict,
    Verified,
    as_ids,
)
from outrider.decoding import Earlier, Lane, Stage, open_lanes, run_round, uncount
from outrider.drafters.combine.compatibility import check_fit
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.model import ModelDrafter, fits, own_prompt, unreadable
from outrider.drafters.neural.model_state import UNFIT
from outrider.policies import Source
from outrider.policies.fixed import FixedLength
from outrider.policies.windows import token_seconds
from outrider.protocols import (
    NO_NEEDS,
    AcceptanceRule,
    Drafter,
    DraftPolicy,
    LanguageModel,
    Needs,
    Request,
)
from outrider.protocols.method import Paper, Value


@dataclass(slots=True)
class QualifiedState:
    """One request at the qualifier. Without a lane it stays undrafted, for the reason given."""

    request: Request
    lane: Lane | None = None
    off: str | None = None
    counters: Counters = field(default_factory=Counters)


@dataclass(slots=True)
class _Collected:
    """What the inner rounds of one proposal have gathered for one request."""

    state: QualifiedState
    tail: IntArray
    budget: Budget
    tokens: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    laws: list[Tensor | None] = field(default_factory=list)
    references: list[Tensor | None] = field(default_factory=list)
    done: bool = False

    @property
    def limit(self) -> int:
        """How deep the next inner draft may go, a token of the qualifier's own to follow;
        negative when the window is full."""
        assert self.state.lane is not None
        written = len(self.tail) + len(self.tokens)
        missing = self.budget.depth - len(self.tokens)
        return min(missing - 1, self.state.lane.cache.room - written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Qualified:
    """Runs inner rounds until enough tokens are collected, then proposes them as one chain.

    Each token carries the qualifier's raw logits as `reference`, and the law it was really drawn
    from: the qualifier's after `Match` or `Rejection`, the drafter's where `Fuzzy` kept it by
    divergence. With that law an outer `Rejection` is exact whatever the inner rule is.

    Attributes:
        drafter: proposes to the qualifier.
        qualifier: the middle model.
        rule: how the qualifier accepts.
        policy: how much the drafter drafts in one inner round.
        name: the source of the tokens the qualifier writes itself.
    """

    drafter: Drafter
    qualifier: LanguageModel
    rule: AcceptanceRule = field(default_factory=Match)
    policy: DraftPolicy = field(default_factory=FixedLength)
    name: str = "qualifier"
    needs: Needs = NO_NEEDS
    tier: int = 1

    draw = Draw.IID
    gives = Needs(law=True, reference=True)

    @property
    def learns(self) -> bool:
        """What the drafter inside does."""
        return self.drafter.learns

    @property
    def stage(self) -> Stage:
        """The inner level of the nest."""
        return Stage(
            name=self.name,
            model=self.qualifier,
            drafter=self.drafter,
            rule=self.rule,
            policy=self.policy,
            tier=self.tier,
        )

    @property
    def origins(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "Qualified":
        """Bind the whole nest below. Raises `StrategyError` when a law is asked for that the
        inner rule can not track."""
        if needs.law and not self.rule.tracks_law:
            raise StrategyError(
                f"the rule outside needs the law of each token, which {self.rule} at "
                f"{self.name!r} does not know",
                hint="Use a divergence that reads distributions only, and no max_changed",
            )
        rule = self.rule
        wavering = [
            name
            for name, wavers in (
                (type(self.policy).__name__, self.policy.adaptive),
                (self.drafter.name, self.drafter.learns),
            )
            if wavers
        ]
        if needs.law and wavering and rule.exactness is not Exactness.IDENTICAL:
            raise StrategyError(
                f"the rule outside needs the law of each token, and {wavering[0]} at {self.name!r} "
                "goes by tokens that the rule outside may have drawn again",
                hint="Use FixedLength and a drafter that does not learn there, or Match as the "
                "inner rule",
            )
        if needs.law:
            rule = replace(rule, with_laws=True)  # pyright: ignore[reportArgumentType, reportCallIssue]
        check_fit(rule, self.drafter)
        inner = self.drafter.bind(rule.needs, tier + 1)
        return replace(self, rule=rule, drafter=inner, needs=needs, tier=tier)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[QualifiedState | None] | None = None
    ) -> list[QualifiedState]:
        """Read each prompt that fits, at the qualifier and below."""
        states = [QualifiedState(request) for request in requests]
        old = previous or [None] * len(requests)
        prompts = [own_prompt(request, self.qualifier) for request in requests]
        fitting = [i for i, prompt in enumerate(prompts) if fits(self.qualifier, prompt)]
        lanes = self._open(
            [requests[i] for i in fitting],
            [prompts[i] for i in fitting],
            [b.lane if isinstance(b := old[i], QualifiedState) else None for i in fitting],
        )
        for i, lane in zip(fitting, lanes, strict=True):
            if lane is not None:
                states[i].lane, states[i].counters = lane, lane.counters
        for state in states:
            if state.lane is None:
                state.off = f"the prompt does not fit {self.qualifier.info.name}"
        return states

    def _open(
        self,
        requests: Sequence[Request],
        prompts: Sequence[Prompt],
        previous: Sequence[Earlier | None],
    ) -> Sequence[Lane | None]:
        """Lanes, with None for prompts with images that do not fit (`start_fitting`)."""
        try:
            return open_lanes(self.stage, requests, prompts, previous)
        except UNFIT:
            if all(prompt.pictured is None for prompt in prompts):
                raise
        lanes: list[Lane | None] = []
        for request, prompt in zip(requests, prompts, strict=True):
            try:
                lanes += open_lanes(self.stage, [request], [prompt])
            except UNFIT:
                lanes.append(None)
        return lanes

    def propose(
        self,
        states: Sequence[QualifiedState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Inner rounds until every request has its fill; overshoot is cut by count alone."""
        gathered = [
            _Collected(*parts, done=self._idle(*parts))
            for parts in zip(states, tails, [b.only(self.name) for b in budgets], strict=True)
        ]
        while active := [c for c in gathered if not c.done and self._has_room(c)]:
            lanes: list[Lane] = []
            for c in active:
                assert c.state.lane is not None
                c.state.lane.tail = np.concatenate((c.tail, as_ids(c.tokens)))
                lanes.append(c.state.lane)
            result = run_round(self.stage, lanes, [c.limit for c in active])
            for c, rows, verdict in zip(active, result.rows, result.verdicts, strict=True):
                self._collect(c, rows, verdict)
        return [self._draft(c) for c in gathered]

    def observe(self, states: Sequence[QualifiedState], verified: Sequence[Verified]) -> None:
        """Pass what the outer tier saw on to the drafter inside."""
        pairs = [(s.lane, v) for s, v in zip(states, verified, strict=True) if s.lane]
        self.drafter.observe([lane.state for lane, _ in pairs], [v for _, v in pairs])

    def commit(self, states: Sequence[QualifiedState], tokens: Sequence[IntArray]) -> None:
        """Commit the qualifier's cache and everything below."""
        pairs = [(s.lane, t) for s, t in zip(states, tokens, strict=True) if s.lane]
        for state, emitted in zip(states, tokens, strict=True):
            state.off = state.off or unreadable(self.qualifier, emitted)
        for lane, emitted in pairs:
            lane.cache.commit(emitted)
        self.drafter.commit([lane.state for lane, _ in pairs], [t for _, t in pairs])

    def counters(self, state: QualifiedState) -> dict[str, Counters]:
        """This tier's counts, then those of the tiers inside."""
        state.counters.off = state.off
        inner = self.drafter.counters(state.lane.state) if state.lane else {}
        return {self.name: state.counters} | inner

    def _idle(self, state: QualifiedState, tail: IntArray, budget: Budget) -> bool:
        out_of_reach = state.off or unreadable(self.qualifier, tail)
        return out_of_reach is not None or not budget.depth

    def _has_room(self, collected: _Collected) -> bool:
        if collected.limit >= 0:
            return True
        if not collected.tokens:
            collected.state.off = f"the text has outgrown the window of {self.qualifier.info.name}"
        return False

    def _collect(self, c: _Collected, rows: Rows, verdict: Verdict) -> None:
        """Append one inner verdict; decide from counts and kept tokens whether to go on."""
        if verdict.error is not None:
            c.state.off, c.done = str(verdict.error), True
            return
        kept = min(len(verdict.emitted), c.budget.depth - len(c.tokens))
        uncount(c.state.counters, verdict, kept)
        c.tokens += verdict.emitted[:kept]
        c.sources += verdict.sources[:kept]
        if self.needs.law:
            c.laws += verdict.laws[:kept]
        if self.needs.reference:
            parents = (-1, *verdict.path)[:kept]
            c.references += [rows.logits[parent + 1] for parent in parents]
        ended = c.state.request.sampler.end_ids.intersection(c.tokens[-kept:] if kept else ())
        c.done = bool(ended) or len(c.tokens) >= c.budget.depth

    def _draft(self, c: _Collected) -> Draft:
        if not c.tokens:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(c.tokens),
            parents=chain_parents(len(c.tokens)),
            sources=tuple(c.sources),
            draw=Draw.IID,
            law=tuple(c.laws) if self.needs.law else None,
            reference=tuple(c.references) if self.needs.reference else None,
            origin=self.name,
        )


def tier_names(qualifiers: int) -> list[str]:
    """What qualifiers are called, from the largest to the smallest."""
    return ["qualifier", *(f"qualifier{i}" for i in range(2, qualifiers + 1))][:qualifiers]


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Drafter:
    qualifiers = given.qualifiers("pyramid")
    drafter: Drafter = ModelDrafter(model=given.draft_model("pyramid"))
    for qualifier, name in reversed(
        list(zip(qualifiers, tier_names(len(qualifiers)), strict=True))
    ):
        drafter = qualified(drafter, qualifier, given, name)
    return drafter


def qualified(drafter: Drafter, qualifier: LanguageModel, given: Given, name: str) -> Qualified:
    """`qualifier` over `drafter`, whose drafts are as long as pays, where costs were measured."""
    if given.costs is None:
        return Qualified(drafter=drafter, qualifier=qualifier, name=name)
    inner = [replace(one, accept=given.chances.inner) for one in given.priors_of(drafter)]
    policy = given.gain(given.qualifier_costs(qualifier), inner)
    return Qualified(drafter=drafter, qualifier=qualifier, policy=policy, name=name)


def _priors(drafter: Qualified, given: Given) -> tuple[Source, ...]:
    [inner] = given.priors_of(drafter.drafter)
    overhead = given.measured.overhead
    whole = given.qualifier_costs(drafter.qualifier).plus(2 * overhead)
    return (
        Source(
            name=drafter.name,
            seconds=token_seconds(whole, inner.seconds, given.chances.inner),
            fixed=overhead,
            accept=given.chances.qualifier,
        ),
    )


METHOD = DrafterMethod(
    name="pyramid",
    cls=Qualified,
    summary="the draft model and every qualifier",
    paper=Paper("PyramidSD", "2510.12966"),
    needs="a draft model and a qualifier",
    memory="both models and their caches",
    make=_make,
    priors=_priors,
    models=2,
)
