"""Drafts as segments: the rows of a draft after the tokens that inner rounds accepted."""

import numpy as np

from outrider.core.tree import chain_parents, is_chain
from outrider.core.types import Draft, IntArray, as_ids
from outrider.protocols import Cache, Segment


def attach(cache: Cache, tail: IntArray, draft: Draft) -> tuple[Segment, IntArray]:
    """Build the segment that verifies `draft` after `tail`, and the rows to request.

    Tokens of the tail without rows are fed first. The requested rows are the one after text and
    tail, then one for each node.
    """
    if not len(tail):
        if cache.fed:
            cache.commit(())
        if not len(draft) or is_chain(draft.parents):
            return Segment(cache, draft.tokens, prompts=draft.prompts), np.arange(-1, len(draft))
    spelled = cache.match_prefix(tail)
    rest = tail[len(spelled) :]
    first = cache.num_speculative
    hook = spelled[-1] if spelled else -1
    end = first + len(rest) - 1 if len(rest) else hook
    nodes = np.where(draft.parents < 0, end, draft.parents + first + len(rest))
    segment = Segment(
        cache,
        np.concatenate((rest, draft.tokens)),
        np.concatenate((chain_parents(len(rest), hook) + _shift(rest, first), nodes)),
        draft.prompts,
    )
    rows = first + len(rest) + np.arange(len(draft))
    return segment, np.concatenate((as_ids([end]), rows))


def _shift(rest: IntArray, first: int) -> IntArray:
    """Return the offset of chain parents, which count from their own segment: 0 for the first
    row.
    """
    shift = np.full(len(rest), first, dtype=np.int64)
    shift[:1] = 0
    return shift
