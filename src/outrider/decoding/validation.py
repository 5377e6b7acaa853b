"""Restricts drafts to the budget and to the verifier's vocabulary."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from outrider.core.errors import StrategyError
from outrider.core.reading import ReadingRows
from outrider.core.tree import depths
from outrider.core.types import BoolArray, Budget, Draft, Exactness
from outrider.decoding.beside import Work
from outrider.decoding.deferred import Deferred
from outrider.decoding.legal import with_forced
from outrider.decoding.stage import SequenceState, Stage
from outrider.policies.schedule import limited
from outrider.protocols import AcceptanceRule, Request


def budgets_of(
    stage: Stage,
    sequences: Sequence[SequenceState],
    limits: Sequence[int],
    draft_rows: ReadingRows | None = None,
    may_draft: Callable[[bool], bool] | None = None,
) -> tuple[list[Budget], list[Work]]:
    """Return the draft budget of each sequence, and an empty list to which drafters add work that
    runs while the verifier computes (`Budget.meanwhile`).

    Args:
        stage: the verifier and its policy.
        sequences: the requests that share a forward.
        limits: the maximum depth of their drafts.
        draft_rows: what draft models may read of texts; None: all.
        may_draft: says whether the drafter may propose, told whether a grammar gives tokens; None:
            it may. It changes no tokens of a grammar.
    """
    work: list[Work] = []
    reaches = [_reach(stage, *pair) for pair in zip(sequences, limits, strict=True)]
    budgets = [
        with_forced(Budget.chain(0), stage, *pair) for pair in zip(sequences, reaches, strict=True)
    ]
    if may_draft is None or may_draft(any(budget.forced for budget in budgets)):
        budgets = [
            replace(_budget(stage, *pair, len(sequences)), forced=budget.forced)
            for *pair, budget in zip(sequences, reaches, budgets, strict=True)
        ]
    add = _adding(work, stage, sequences)
    given = [
        replace(budget, meanwhile=add, reading=draft_rows) if budget.depth else budget
        for budget in budgets
    ]
    return given, work


def _adding(
    work: list[Work], stage: Stage, sequences: Sequence[SequenceState]
) -> Callable[[Work], None]:
    """Return a function that adds work; its errors end drafting for the requests, as other errors
    of a drafter do."""

    def add(one: Work) -> None:
        def run() -> None:
            try:
                one()
            except Exception as error:
                if not isinstance(stage.drafter, Deferred):
                    raise
                stage.drafter.failed([sequence.drafting for sequence in sequences], error)

        work.append(run)

    return add


def _reach(stage: Stage, sequence: SequenceState, limit: int) -> int:
    """Return the maximum depth of a draft, of the drafter or of a grammar.

    A draft, next token included, ends before the target itself changes (`Cache.horizon`). For a
    verifier below the target, a change can lower the acceptance rate but cannot alter the text; it
    takes effect with the next commit. Logits processors that may keep a state need a rule that
    visits each position once, in order.
    """
    if limit < 1:
        return 0
    if sequence.request.sampler.stateful and stage.rule.exactness is not Exactness.IDENTICAL:
        return 0  # the rule may visit a position twice, or on several branches
    horizon = sequence.cache.horizon if stage.tier == 0 else None
    return limit if horizon is None else min(limit, horizon - 1)


def _budget(stage: Stage, sequence: SequenceState, reach: int, batch: int) -> Budget:
    """Return the draft budget for `sequence`; `batch` is the number of requests that share its
    forward."""
    if reach < 1 or sequence.off is not None:
        return Budget.chain(0)
    budget = stage.policy.budget(sequence.counters, batch).clipped(reach)
    return limited(budget, stage.schedule.cap(batch))


def fitting(draft: Draft, budget: Budget, stage: Stage) -> Draft:
    """Drop nodes that exceed the budget or that the verifier cannot write, and their
    descendants."""
    tokens, vocab_size, image_token_ids = (
        draft.tokens,
        stage.model.info.vocab_size,
        stage.image_token_ids,
    )
    if not len(tokens) or (
        len(tokens) <= min(budget.depth, budget.nodes)
        and tokens.min() >= 0
        and tokens.max() < vocab_size
        and (not image_token_ids or image_token_ids.isdisjoint(tokens.tolist()))
    ):
        return draft
    known = (tokens >= 0) & (tokens < vocab_size) | _prompted(draft, stage)
    keep_strange = _refuses(stage.rule)
    if image_token_ids and not keep_strange:
        known &= ~np.isin(tokens, list(image_token_ids))
    fits = (known | (tokens >= 0) & keep_strange) & (depths(draft.parents) < budget.depth)
    for node, parent in enumerate(draft.parents):
        fits[node] &= parent < 0 or (fits[parent] and known[parent])
    nodes = np.flatnonzero(fits)[: budget.nodes]
    return draft.only(nodes)


def _prompted(draft: Draft, stage: Stage) -> BoolArray:
    """Return `[nodes]`: true for probes that the verifier reads as embeddings, not as tokens."""
    if draft.prompts is None or draft.probe is None or not stage.model.info.reads_prompts:
        return np.zeros(len(draft), dtype=np.bool_)
    return draft.probe & (draft.tokens < 0) & (draft.tokens >= -len(draft.prompts))


def readable(draft: Draft, vocab_size: int) -> Draft:
    """Return `draft` with token ids that the verifier can read. The rows of replaced tokens are not
    used.
    """
    if not len(draft) or draft.tokens.max() < vocab_size:
        return draft
    return replace(draft, tokens=np.minimum(draft.tokens, vocab_size - 1))


def check_checker(stage: Stage, request: Request) -> None:
    """Check that the rule of a stage can follow the checker of a request, if it has one.

    Raises:
        StrategyError: the rule reads distributions, and which tokens of a distribution a checker
            allows is not known without asking about each of them.
    """
    if request.sampler.checks is not None and stage.rule.exactness is not Exactness.IDENTICAL:
        raise StrategyError(
            f"a checker cannot be combined with {type(stage.rule).__name__}",
            hint="Use the rule Match (mode exact), or a grammar",
        )


def _refuses(rule: AcceptanceRule) -> bool:
    """Whether the rule must judge tokens that are not in the verifier's vocabulary. Their rejection
    is part of the distribution of the next token."""
    return rule.needs.probs and rule.exactness is Exactness.DISTRIBUTION
