"""Drafts of requests whose text follows a grammar."""

from dataclasses import replace

import numpy as np

from outrider.core.errors import GrammarError
from outrider.core.tree import is_chain, path_to
from outrider.core.types import EMPTY_DRAFT, GRAMMAR, Budget, Draft, Exactness, as_ids
from outrider.decoding.stage import SequenceState, Stage
from outrider.sampling.walk import Walk

_UNDRAFTED = "none"
"""Name of the drafter that proposes nothing: nothing is drafted in its place either."""


def with_forced(budget: Budget, stage: Stage, sequence: SequenceState, reach: int) -> Budget:
    """Return the budget with the tokens that the grammar expects next, at most `reach`.

    The bytes are certain, but other tokens may spell them, so that the model decides. Rules that
    judge draws of a draft model get none: they need drafts whose distribution is known.
    """
    walk = sequence.request.sampler.walk
    if walk is None or stage.drafter.name == _UNDRAFTED or not _by_match(stage) or reach < 1:
        return budget
    try:
        forced = walk.forced(_text(sequence))[:reach]
    except GrammarError:  # it is raised again when the next token is chosen
        return budget
    return replace(budget, forced=tuple(forced)) if forced else budget


def forced_draft(budget: Budget) -> Draft:
    """Return the chain of the forced tokens of a budget."""
    size = len(budget.forced)
    return Draft(
        tokens=as_ids(budget.forced),
        parents=as_ids(range(-1, size - 1)),
        sources=(GRAMMAR,) * size,
        origin=GRAMMAR,
    )


def legal(draft: Draft, stage: Stage, sequence: SequenceState) -> Draft:
    """Drop nodes that the grammar does not allow, and their descendants: with `Match` they could
    not be kept. Under other rules a drawn token is part of the distribution, and stays. A draft for
    which the grammar cannot be followed is dropped as a whole."""
    walk = sequence.request.sampler.walk
    if walk is None or not len(draft) or not _by_match(stage):
        return draft
    try:
        return _admitted(draft, sequence, walk)
    except GrammarError:
        return EMPTY_DRAFT


def _admitted(draft: Draft, sequence: SequenceState, walk: Walk) -> Draft:
    """Return the nodes that the grammar allows. Raises `GrammarError`."""
    sampler = sequence.request.sampler
    text, tokens = _text(sequence), draft.tokens.tolist()
    if draft.prompts is None and is_chain(draft.parents):
        count = walk.admits(text, tokens)
        if count < len(tokens) and tokens[count] in sampler.end_ids:
            count += 1  # the sampler decides whether the text may end
        return draft if count == len(tokens) else draft.only(np.arange(count))
    fits = np.zeros(len(tokens), dtype=np.bool_)
    for node, parent in enumerate(draft.parents.tolist()):
        if parent >= 0 and not fits[parent]:
            continue
        if tokens[node] < 0:  # is read as an embedding, and never becomes text
            fits[node] = True
            continue
        before = [tokens[n] for n in path_to(draft.parents, parent)] if parent >= 0 else []
        own = [tokens[node]]
        fits[node] = own[0] in sampler.end_ids or walk.admits([*text, *before], own) == 1
    if fits.all():
        return draft
    return draft.only(np.flatnonzero(fits)) if fits.any() else EMPTY_DRAFT


def _by_match(stage: Stage) -> bool:
    return stage.rule.exactness is Exactness.IDENTICAL


def _text(sequence: SequenceState) -> list[int]:
    return [*sequence.request.output, *sequence.tail.tolist()]
