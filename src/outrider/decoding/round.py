"""The page to read first: one round of speculative decoding. The loop around it is in `loop.py`.

A round proposes, verifies, accepts and learns. The same function runs at every level: a drafter
whose proposals are confirmed by a middle model (`drafters/combine/pyramid.py`) is itself a drafter,
so a three-model pyramid is one nesting. Plain decoding is the same loop with the drafter that
proposes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np

from outrider.core.counters import Counters, Tally
from outrider.core.errors import LogitsError
from outrider.core.tree import depths
from outrider.core.types import (
    EMPTY_DRAFT,
    NO_IDS,
    Budget,
    Draft,
    Exactness,
    IntArray,
    Rows,
    Verdict,
    Verified,
    as_ids,
)
from outrider.models.caches.bookkeeping import attach
from outrider.protocols import (
    AcceptanceRule,
    ContextSelector,
    Drafter,
    DraftPolicy,
    LanguageModel,
    Request,
)
from outrider.protocols.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One level of the nest: a model that verifies, and what drafts for it."""

    name: str
    model: LanguageModel
    drafter: Drafter
    rule: AcceptanceRule
    policy: DraftPolicy
    tier: int = 0

    @property
    def unspoken(self) -> frozenset[int]:
        """Ids that stand for images and are never drafted (`models/vision/image_model.py`)."""
        return getattr(self.model, "unspoken", _NONE)


_NONE: frozenset[int] = frozenset()


@dataclass(slots=True)
class Lane:
    """One request at one stage.

    Attributes:
        request: what is asked.
        cache: the verifier's.
        state: the drafter's, once it has `begun`; until then what it was in the turn before.
        tail: what inner rounds accepted but nobody committed yet.
        owed: was emitted, and the drafter is told of it before it is next asked.
        counters: of this tier.
        begun: whether the drafter has read the prompt.
    """

    request: Request
    cache: Any
    state: Any
    tail: IntArray = field(default_factory=lambda: NO_IDS)
    owed: list[int] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    begun: bool = True


@dataclass(frozen=True, slots=True)
class Round:
    """What happened to each lane in one round."""

    drafts: list[Draft]
    rows: list[Rows]
    verdicts: list[Verdict]


def run_round(stage: Stage, lanes: Sequence[Lane], limits: Sequence[int]) -> Round:
    """Propose, verify, accept, learn; nothing is committed.

    `limits` are the deepest drafts allowed: what is left of the token limit or the window.
    """
    tails, once = [lane.tail for lane in lanes], 0.0
    _refresh(stage, lanes)
    budgets = [
        stage.policy.budget(lane.counters, len(lanes)).clipped(_reach(stage, lane, limit))
        for lane, limit in zip(lanes, limits, strict=True)
    ]
    begun = perf_counter()
    drafts = [EMPTY_DRAFT] * len(lanes)
    if any(budget.depth for budget in budgets):
        once = settle(stage, lanes)
        states = [lane.state for lane in lanes]
        proposed = stage.drafter.propose(states, tails, budgets)  # 1 propose
        drafts = [
            _fitting(draft, budget, stage) for draft, budget in zip(proposed, budgets, strict=True)
        ]
    drafted = perf_counter()
    size = stage.model.vocab_size
    pairs = [
        attach(lane.cache, lane.tail, _readable(draft, size))
        for lane, draft in zip(lanes, drafts, strict=True)
    ]
    rows = stage.model.forward([s for s, _ in pairs], [w for _, w in pairs])  # 2 verify
    verified = perf_counter()
    verdicts = [  # 3 accept
        _judge(stage, lane, draft, row)
        for lane, draft, row in zip(lanes, drafts, rows, strict=True)
    ]
    if stage.drafter.learns:
        seen = zip(tails, drafts, rows, verdicts, strict=True)
        verifications = [Verified(stage.name, *parts) for parts in seen]
        stage.drafter.observe([lane.state for lane in lanes], verifications)  # 4 learn
    accepted = perf_counter()
    once += sum(draft.once for draft in drafts)
    drafting = max(drafted - begun - once, 0.0)
    for lane, draft, verdict in zip(lanes, drafts, verdicts, strict=True):
        _count(lane.counters, draft, verdict)
        lane.counters.add_seconds(
            prefill=once, draft=drafting, verify=verified - drafted, accept=accepted - verified
        )
    _note_pace(lanes, drafts, drafting, accepted - drafted)
    return Round(drafts, rows, verdicts)


def settle(stage: Stage, lanes: Sequence[Lane]) -> float:
    """Let the drafter begin, and tell it what was emitted since it was last told.

    Rounds that ask it for nothing leave that for later: a small model's round is short. Drafters
    that learn from rows are told at once, since the next row follows these very tokens. Returns
    the seconds that beginning took.
    """
    once = 0.0
    if new := [lane for lane in lanes if not lane.begun]:
        started = perf_counter()
        states = stage.drafter.begin([lane.request for lane in new], [lane.state for lane in new])
        for lane, state in zip(new, states, strict=True):
            lane.state, lane.begun = state, True
        once = perf_counter() - started
    if owing := [lane for lane in lanes if lane.owed]:
        tokens = [as_ids(lane.owed) for lane in owing]
        stage.drafter.commit([lane.state for lane in owing], tokens)
        for lane in owing:
            lane.owed = []
    return once


def _refresh(stage: Stage, lanes: Sequence[Lane]) -> None:
    """Let a verifier that reads parts of its prompt (`context/`) choose others, where that is due.

    Booked apart from the round: policies go by what a round costs.
    """
    due = [lane for lane in lanes if lane.cache.horizon == 0]
    if due and isinstance(stage.model, ContextSelector):
        begun = perf_counter()
        stage.model.refresh([lane.cache for lane in due])
        for lane in due:
            lane.counters.add_seconds(refresh=perf_counter() - begun)


def _reach(stage: Stage, lane: Lane, limit: int) -> int:
    """The deepest draft that ends, next token included, before the target itself changes.

    Below the target a change can cost acceptance but not alter the text, and comes with the next
    commit.
    """
    horizon = lane.cache.horizon if stage.tier == 0 else None
    return limit if horizon is None else min(limit, horizon - 1)


def _refuses(rule: AcceptanceRule) -> bool:
    """Whether the rule must see tokens that the verifier does not have: that one was drawn and is
    refused is part of the law of what follows."""
    return rule.needs.law and rule.exactness is Exactness.DISTRIBUTION


def _readable(draft: Draft, vocab_size: int) -> Draft:
    """`draft` as the verifier can read it; nobody looks at rows of tokens that it does not have."""
    if not len(draft) or draft.tokens.max() < vocab_size:
        return draft
    return replace(draft, tokens=np.minimum(draft.tokens, vocab_size - 1))


def _fitting(draft: Draft, budget: Budget, stage: Stage) -> Draft:
    """The part of `draft` that keeps to the budget and to what the verifier may write.

    Whatever a drafter hands up, the text must not suffer; a child goes with its parent.
    """
    tokens, vocab_size, unspoken = draft.tokens, stage.model.vocab_size, stage.unspoken
    if not len(tokens) or (
        len(tokens) <= min(budget.depth, budget.nodes)
        and tokens.min() >= 0
        and tokens.max() < vocab_size
        and (not unspoken or unspoken.isdisjoint(tokens.tolist()))
    ):
        return draft
    known = (tokens >= 0) & (tokens < vocab_size)
    keep_strange = _refuses(stage.rule)
    if unspoken and not keep_strange:
        known &= ~np.isin(tokens, list(unspoken))
    fits = (known | (tokens >= 0) & keep_strange) & (depths(draft.parents) < budget.depth)
    for node, parent in enumerate(draft.parents):
        fits[node] &= parent < 0 or (fits[parent] and known[parent])
    nodes = np.flatnonzero(fits)[: budget.nodes]
    return draft.only(nodes)


def _judge(stage: Stage, lane: Lane, draft: Draft, rows: Rows) -> Verdict:
    """The rule's verdict, or the error that ends this request alone."""
    request = lane.request
    view = View(
        sampler=request.sampler,
        generated=[*request.output, *lane.tail.tolist()] if len(lane.tail) else request.output,
        draft=draft,
        rows=rows,
        tier=stage.tier,
        name=stage.name,
        model=stage.model.name,
        ledger=lane.counters,
    )
    try:
        return stage.rule(draft, view)
    except LogitsError as error:
        return Verdict(error=error)


def _count(counters: Counters, draft: Draft, verdict: Verdict) -> None:
    """Add one round to the integers from which every ratio is made."""
    counters.rounds += 1
    counters.forwards += 1
    counters.undrafted_rounds += not len(draft)
    probes = draft.num_probes
    counters.drafted += len(draft) - probes
    counters.probed += probes
    counters.accepted += len(verdict.tokens)
    last = verdict.path[-1] if verdict.path else -1
    refused = verdict.next_token is not None and bool(draft.children(last))
    counters.refused += refused
    counters.next_tokens += verdict.next_token is not None
    counters.changed += sum(verdict.changed)
    for source in verdict.sources:
        counters.sources[source] = counters.sources.get(source, 0) + 1
    if len(draft) > probes:
        depth = depths(draft.parents)
        _add_at(counters.drafted_at, depth if draft.probe is None else depth[~draft.probe])
        _add_at(counters.accepted_at, depth[list(verdict.path)])
        tally = counters.tallies.setdefault(_origin(draft), Tally())
        tally.note(len(draft) - probes, len(verdict.tokens), refused, counters.now)
        tally.ranks.note(len(draft), verdict.path)


def _origin(draft: Draft) -> str:
    return draft.origin or draft.sources[0]


def _note_pace(
    lanes: Sequence[Lane], drafts: Sequence[Draft], drafting: float, checking: float
) -> None:
    """Book what a round took: drafting under the origin, where all drafts have the same one."""
    drafted = [(lane, draft) for lane, draft in zip(lanes, drafts, strict=True) if len(draft)]
    rows = len(lanes) + sum(len(draft) for _, draft in drafted)
    for lane in lanes:
        pace = lane.counters.checked if drafted else lane.counters.plain
        pace.note(checking, rows)
    if len({_origin(draft) for _, draft in drafted}) == 1:
        for lane, draft in drafted:
            tally = lane.counters.tallies.get(_origin(draft))
            if tally is not None:  # none for probes alone
                tally.pace.note(drafting / len(drafted), len(draft))


def _add_at(totals: list[int], depth: IntArray) -> None:
    for d in depth:
        totals.extend([0] * (int(d) + 1 - len(totals)))
        totals[int(d)] += 1


def uncount(counters: Counters, verdict: Verdict, kept: int) -> None:
    """Take back the tokens of `verdict` after the first `kept`: a stop or a limit cut them."""
    counters.cut += len(verdict.emitted) - kept
    counters.changed -= sum(verdict.changed[kept:])
    for source in verdict.sources[kept:]:
        counters.sources[source] -= 1
