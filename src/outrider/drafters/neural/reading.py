"""Reads texts into the caches of draft models in parts, within the rows that a step may read.

Where a server reads prompts in parts (`Request.in_parts`), a draft model does so as well: a long
prompt would otherwise hold up the step of all requests. Until its text is read, a request is not
drafted for. `ModelState.ahead` holds what is not in the cache yet.
"""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from outrider.core.types import NO_IDS, Budget, Draft
from outrider.drafters.neural.model_state import ModelState
from outrider.models.caches.prefill import PREFILL_CHUNK, note_reading
from outrider.models.heads.cache import Following
from outrider.protocols import LanguageModel, Segment


def read_ahead(
    model: LanguageModel, states: Sequence[ModelState], budgets: Sequence[Budget]
) -> float:
    """Read parts of the texts of `states` that may be drafted for; return the seconds.

    The last part of a text becomes pending, and the first forward of the draft reads it. Without
    `Budget.reading`, everything else is read at once.
    """
    behind = [
        (state, budget)
        for state, budget in zip(states, budgets, strict=True)
        if len(state.ahead) and budget.depth > 0 and _fits(model, state)
    ]
    read = [state for state, _ in behind]
    if not behind:
        return 0.0
    begun = perf_counter()
    while behind:
        moved = [state for state, budget in behind if _advance(state, budget)]
        parts = [state for state in moved if len(state.ahead)]
        if parts:
            model.forward([Segment(s.cache, NO_IDS) for s in parts], [NO_IDS] * len(parts))
        behind = [(s, budget) for s, budget in behind if any(s is part for part in parts)]
    seconds = perf_counter() - begun
    for state in read:
        note_reading(state.counters, state.cache, seconds)
    return seconds


def timed(drafts: Sequence[Draft], seconds: float) -> list[Draft]:
    """Return drafts that hold the seconds of reading, which are no cost of drafting."""
    if not seconds:
        return list(drafts)
    return [replace(draft, once=draft.once + seconds / len(drafts)) for draft in drafts]


def _fits(model: LanguageModel, state: ModelState) -> bool:
    """Whether drafting is possible after the whole text; if the text is too long, it is off."""
    if state.off is None and len(state.ahead) > state.cache.remaining:
        state.off = f"the text has outgrown the window of {model.info.name}"
    return state.off is None


def _advance(state: ModelState, budget: Budget) -> bool:
    """Make the next part of a text pending; return whether there was any room for it."""
    count = min(len(state.ahead), PREFILL_CHUNK)
    if isinstance(state.cache, Following):
        count = min(count, state.cache.readable)
    if budget.reading is not None:
        count = budget.reading.take(count)
    if count:
        state.cache.commit(state.ahead[:count])
        state.ahead = state.ahead[count:]
    return count > 0
