"""One round of speculative decoding: a good first file to read. The loop around it is `session.py`.

A round proposes, verifies, accepts and learns. The same function runs at every level: a drafter
whose proposals are verified by a middle model (`drafters/combine/pyramid.py`) is itself a drafter,
so a three-model pyramid is one level of nesting. Plain decoding is the same loop with a drafter
that proposes nothing.
"""

from collections.abc import Callable, Sequence
from time import perf_counter

from outrider.core.errors import LogitsError
from outrider.core.reading import ReadingRows
from outrider.core.types import EMPTY_DRAFT, NO_IDS, Budget, Draft, Rows, Verdict, Verified
from outrider.decoding.beside import beside
from outrider.decoding.ledger import Ledger
from outrider.decoding.legal import forced_draft, legal
from outrider.decoding.stage import Round, SequenceState, Stage
from outrider.decoding.validation import budgets_of, fitting, readable
from outrider.kernels.forking import one_torch_thread
from outrider.models.caches.attaching import attach
from outrider.protocols import Cache, Segment
from outrider.protocols.view import View


def run_round(
    stage: Stage,
    sequences: Sequence[SequenceState],
    limits: Sequence[int],
    reading: Sequence[Cache] = (),
    draft_rows: ReadingRows | None = None,
    may_draft: Callable[[bool], bool] | None = None,
) -> Round:
    """Propose, verify, accept, and let the drafters learn. The caller commits what is accepted.

    Args:
        stage: the verifier, its drafter, rule and policy.
        sequences: the requests.
        limits: for each request, the maximum depth of a draft: the remaining tokens or context.
        reading: caches of prompts whose pending tokens are read in the same forward.
        draft_rows: what draft models may read of prompts in this round; None: all.
        may_draft: whether the drafter may propose, given whether a grammar forces tokens.
    """
    refresh(stage, sequences)
    budgets, work = budgets_of(stage, sequences, limits, draft_rows, may_draft)
    ledger = Ledger(sequences, reading=bool(reading))
    drafts = propose(stage, sequences, budgets)
    ledger.lap("draft")
    with beside(work):
        rows = verify(stage, sequences, drafts, reading)
        ledger.lap("verify")
    ledger.lap("draft")
    verdicts = [accept(stage, *parts) for parts in zip(sequences, drafts, rows, strict=True)]
    learn(stage, sequences, drafts, rows, verdicts)
    ledger.lap("accept")
    ledger.book(drafts, verdicts)
    return Round(budgets, drafts, rows, verdicts, ledger.seconds)


def propose(
    stage: Stage, sequences: Sequence[SequenceState], budgets: Sequence[Budget]
) -> list[Draft]:
    """Return the drafts within the budgets; drafting is skipped where the budget is empty."""
    drafts = [EMPTY_DRAFT] * len(sequences)
    for i, budget in enumerate(budgets):
        if budget.forced:
            drafts[i] = forced_draft(budget)
    chosen = [i for i, budget in enumerate(budgets) if budget.depth and not budget.forced]
    if not chosen:
        return drafts
    states = [sequences[i].drafting for i in chosen]
    tails = [sequences[i].tail for i in chosen]
    found = stage.drafter.propose(states, tails, [budgets[i] for i in chosen])
    for i, draft in zip(chosen, found, strict=True):
        drafts[i] = legal(fitting(draft, budgets[i], stage), stage, sequences[i])
    return drafts


def verify(
    stage: Stage,
    sequences: Sequence[SequenceState],
    drafts: Sequence[Draft],
    reading: Sequence[Cache] = (),
) -> list[Rows]:
    """Compute the verifier's rows after each text and each node, all in one forward."""
    size = stage.model.info.vocab_size
    pairs = [
        attach(sequence.cache, sequence.tail, readable(draft, size))
        for sequence, draft in zip(sequences, drafts, strict=True)
    ]
    pairs += [(Segment(cache, NO_IDS), NO_IDS) for cache in reading]
    rows = stage.model.forward([segment for segment, _ in pairs], [want for _, want in pairs])
    return rows[: len(sequences)]


@one_torch_thread()
def accept(stage: Stage, sequence: SequenceState, draft: Draft, rows: Rows) -> Verdict:
    """Apply the rule. Unusable logits end this request only: the verdict then holds the error."""
    request = sequence.request
    view = View(
        sampler=request.sampler,
        generated=[*request.output, *sequence.tail.tolist()]
        if len(sequence.tail)
        else request.output,
        draft=draft,
        rows=rows,
        tier=stage.tier,
        name=stage.name,
        model=stage.model.info.name,
        ledger=sequence.counters,
    )
    try:
        return stage.rule(draft, view)
    except LogitsError as error:
        return Verdict(error=error)


@one_torch_thread()
def learn(
    stage: Stage,
    sequences: Sequence[SequenceState],
    drafts: Sequence[Draft],
    rows: Sequence[Rows],
    verdicts: Sequence[Verdict],
) -> None:
    """Pass every row, including the rows of rejected nodes, to a drafter that learns, and to the
    learner of the stage."""
    if stage.drafter.learns or stage.learner is not None:
        seen = zip(sequences, drafts, rows, verdicts, strict=True)
        verified = [
            Verified(stage.name, sequence.tail, draft, own, verdict)
            for sequence, draft, own, verdict in seen
        ]
        if stage.drafter.learns:
            stage.drafter.observe([sequence.drafting for sequence in sequences], verified)
        if stage.learner is not None:
            stage.learner.observe([sequence.request for sequence in sequences], verified)


def refresh(stage: Stage, sequences: Sequence[SequenceState]) -> None:
    """Put what a learner has learned into use, and let a verifier that reads parts of its prompt
    (`context/`) select again where this is due.

    The time is counted separately from the round, because policies depend on the cost of a round.
    """
    if stage.learner is not None:
        stage.learner.swap()
    due = [sequence for sequence in sequences if sequence.cache.horizon == 0]
    if due and stage.model.selector is not None:
        begun = perf_counter()
        stage.model.selector.refresh([sequence.cache for sequence in due])
        for sequence in due:
            sequence.counters.add_seconds(refresh=perf_counter() - begun)
