"""A drafter whose proposals are verified by a middle model: PyramidSD by nesting.

In PyramidSD (arXiv 2510.12966), a draft model proposes, a qualifier filters, and the target
verifies. Here the qualifier runs the same round as the target, one level below. A cascade of any
depth is therefore `Qualified(Qualified(...))`, and no second loop is needed.
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
from outrider.decoding import Earlier, SequenceState, Stage, open_sequences, run_round, uncount
from outrider.drafters.combine.compatibility import check_fit, check_states
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
    """One request at the qualifier. Without a sequence, drafting is off for the stated reason."""

    request: Request
    sequence: SequenceState | None = None
    off: str | None = None
    counters: Counters = field(default_factory=Counters)


@dataclass(slots=True)
class _Collected:
    """The tokens that the inner rounds of one proposal have collected for one request."""

    state: QualifiedState
    tail: IntArray
    budget: Budget
    tokens: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    distributions: list[Tensor | None] = field(default_factory=list)
    references: list[Tensor | None] = field(default_factory=list)
    done: bool = False

    @property
    def limit(self) -> int:
        """The largest depth of the next inner draft, leaving space for one token of the qualifier
        itself; negative if the window is full."""
        assert self.state.sequence is not None
        written = len(self.tail) + len(self.tokens)
        missing = self.budget.depth - len(self.tokens)
        return min(missing - 1, self.state.sequence.cache.remaining - written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Qualified:
    """Runs inner rounds until enough tokens are collected, then proposes them as one chain.

    Each token carries the qualifier's raw logits as `reference`, and the distribution from which it
    was actually drawn: the qualifier's after `Match` or `Rejection`, the drafter's if `Fuzzy` kept
    it by divergence. With this distribution an outer `Rejection` is exact for every inner rule.

    Attributes:
        drafter: proposes to the qualifier.
        qualifier: the middle model.
        rule: the acceptance rule of the qualifier.
        policy: decides how much the drafter drafts in one inner round.
        name: the source of the tokens that the qualifier writes itself.
    """

    drafter: Drafter
    qualifier: LanguageModel
    rule: AcceptanceRule = field(default_factory=Match)
    policy: DraftPolicy = field(default_factory=FixedLength)
    name: str = "qualifier"
    needs: Needs = NO_NEEDS
    tier: int = 1

    draw = Draw.IID
    gives = Needs(probs=True, reference=True)

    @property
    def learns(self) -> bool:
        """Whether the inner drafter learns from rows."""
        return self.drafter.learns

    @property
    def stage(self) -> Stage:
        """The stage in which the qualifier verifies the inner drafter."""
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
        """Its own name only, because the inner drafts are not returned directly."""
        return (self.name,)

    def bind(self, needs: Needs, tier: int) -> "Qualified":
        """Bind all nested levels. Raises `StrategyError` if a distribution is needed that the inner
        rule cannot track."""
        if needs.probs and not self.rule.tracks_probs:
            raise StrategyError(
                f"the outer rule needs the distribution of each token, which {self.rule} at "
                f"{self.name!r} does not supply",
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
        if needs.probs and wavering and rule.exactness is not Exactness.IDENTICAL:
            raise StrategyError(
                f"the outer rule needs the probabilities of each token, but {wavering[0]} at "
                f"{self.name!r} depends on tokens that the outer rule may have drawn again",
                hint="Use FixedLength and a drafter that does not learn there, or Match as the "
                "inner rule",
            )
        if needs.probs:
            rule = replace(rule, with_probs=True)  # pyright: ignore[reportArgumentType, reportCallIssue]
        check_fit(rule, self.drafter)
        check_states(rule, self.qualifier)
        inner = self.drafter.bind(rule.needs, tier + 1)
        return replace(self, rule=rule, drafter=inner, needs=needs, tier=tier)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[QualifiedState | None] | None = None
    ) -> list[QualifiedState]:
        """Read each prompt that fits, with the qualifier and the levels below it."""
        states = [QualifiedState(request) for request in requests]
        old = previous or [None] * len(requests)
        prompts = [own_prompt(request, self.qualifier) for request in requests]
        fitting = [i for i, prompt in enumerate(prompts) if fits(self.qualifier, prompt)]
        sequences = self._open(
            [requests[i] for i in fitting],
            [prompts[i] for i in fitting],
            [b.sequence if isinstance(b := old[i], QualifiedState) else None for i in fitting],
        )
        for i, sequence in zip(fitting, sequences, strict=True):
            if sequence is not None:
                states[i].sequence, states[i].counters = sequence, sequence.counters
        for state in states:
            if state.sequence is None:
                state.off = f"the prompt does not fit {self.qualifier.info.name}"
        return states

    def _open(
        self,
        requests: Sequence[Request],
        prompts: Sequence[Prompt],
        previous: Sequence[Earlier | None],
    ) -> Sequence[SequenceState | None]:
        """Open sequences; None for prompts with images that do not fit (`start_fitting`)."""
        try:
            return open_sequences(self.stage, requests, prompts, previous)
        except UNFIT:
            if all(prompt.image_prompt is None for prompt in prompts):
                raise
        sequences: list[SequenceState | None] = []
        for request, prompt in zip(requests, prompts, strict=True):
            try:
                sequences += open_sequences(self.stage, [request], [prompt])
            except UNFIT:
                sequences.append(None)
        return sequences

    def propose(
        self,
        states: Sequence[QualifiedState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Run inner rounds until every request has enough tokens. Surplus tokens are cut based on
        their number only, never on their values."""
        gathered = [
            _Collected(*parts, done=self._idle(*parts))
            for parts in zip(states, tails, [b.only(self.name) for b in budgets], strict=True)
        ]
        while active := [c for c in gathered if not c.done and self._has_room(c)]:
            sequences: list[SequenceState] = []
            for c in active:
                assert c.state.sequence is not None
                c.state.sequence.tail = np.concatenate((c.tail, as_ids(c.tokens)))
                sequences.append(c.state.sequence)
            result = run_round(
                self.stage, sequences, [c.limit for c in active], draft_rows=budgets[0].reading
            )
            for c, rows, verdict in zip(active, result.rows, result.verdicts, strict=True):
                self._collect(c, rows, verdict)
        return [self._draft(c) for c in gathered]

    def observe(self, states: Sequence[QualifiedState], verified: Sequence[Verified]) -> None:
        """Pass the verification of the outer tier on to the inner drafter."""
        pairs = [(s.sequence, v) for s, v in zip(states, verified, strict=True) if s.sequence]
        self.drafter.observe([sequence.state for sequence, _ in pairs], [v for _, v in pairs])

    def commit(self, states: Sequence[QualifiedState], tokens: Sequence[IntArray]) -> None:
        """Commit to the qualifier's cache and to all levels below."""
        pairs = [(s.sequence, t) for s, t in zip(states, tokens, strict=True) if s.sequence]
        for state, emitted in zip(states, tokens, strict=True):
            state.off = state.off or unreadable(self.qualifier, emitted)
        for sequence, emitted in pairs:
            sequence.cache.commit(emitted)
        self.drafter.commit([sequence.state for sequence, _ in pairs], [t for _, t in pairs])

    def counters(self, state: QualifiedState) -> dict[str, Counters]:
        """Return the counters of this tier, followed by those of the inner tiers."""
        state.counters.off = state.off
        if state.sequence is None:
            return {self.name: state.counters}
        state.counters.kv_bytes = state.sequence.cache.report.kv_bytes
        inner = self.drafter.counters(state.sequence.state)
        return {self.name: state.counters} | inner

    def _idle(self, state: QualifiedState, tail: IntArray, budget: Budget) -> bool:
        out_of_reach = state.off or unreadable(self.qualifier, tail)
        return out_of_reach is not None or not budget.depth

    def _has_room(self, collected: _Collected) -> bool:
        if collected.limit >= 0:
            return True
        if not collected.tokens:
            collected.state.off = f"the text exceeds the window of {self.qualifier.info.name}"
        return False

    def _collect(self, c: _Collected, rows: Rows, verdict: Verdict) -> None:
        """Append one inner verdict; counts and kept tokens decide whether to continue."""
        if verdict.error is not None:
            c.state.off, c.done = str(verdict.error), True
            return
        kept = min(len(verdict.emitted), c.budget.depth - len(c.tokens))
        uncount(c.state.counters, verdict, kept)
        c.tokens += verdict.emitted[:kept]
        c.sources += verdict.sources[:kept]
        if self.needs.probs:
            c.distributions += verdict.distributions[:kept]
        if self.needs.reference:
            parents = (-1, *verdict.path)[:kept]
            c.references += [rows.logits[parent + 1] for parent in parents]
        ended = c.state.request.sampler.end_ids.intersection(c.tokens[-kept:] if kept else ())
        c.done = bool(ended) or self._enough(len(c.tokens), c.budget)

    def _enough(self, count: int, budget: Budget) -> bool:
        """Whether no further inner round is needed after `count` tokens."""
        return count >= budget.depth

    def _draft(self, c: _Collected) -> Draft:
        if not c.tokens:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(c.tokens),
            parents=chain_parents(len(c.tokens)),
            sources=tuple(c.sources),
            draw=Draw.IID,
            probs=tuple(c.distributions) if self.needs.probs else None,
            reference=tuple(c.references) if self.needs.reference else None,
            origin=self.name,
        )


def tier_names(qualifiers: int) -> list[str]:
    """Return the names of the qualifiers, from the largest model to the smallest."""
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
    """Put `qualifier` above `drafter`. If costs were measured, a policy selects the draft
    length."""
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
