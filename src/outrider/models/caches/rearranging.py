"""Rearranges caches: which rows stay, where they move, and which tokens are read in between.

A rearranged cache holds its text in order and without empty slots. First, rows that stay move to
their new slots and overwrite rows that do not. Then the cache is filled from the beginning to the
end like a prompt; kept rows are appended when their place is reached. Thus each token that is
read attends to all tokens before it and none after it, and the cache is valid at every moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outrider.core.errors import ContextError
from outrider.core.types import Fresh, IntArray, Kept, Piece, as_ids
from outrider.models.caches.bookkeeping import CacheBook, Run
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.prefill import Reading, check_ids, read
from outrider.protocols import Cache, LanguageModel


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """The planned content of one cache.

    Attributes:
        tokens: its new text.
        positions: `[len(tokens)]`.
        kept: the rows that stay, in order.
        sound: how many rows of the new text equal those of a fresh prefill; None means all.
    """

    tokens: list[int]
    positions: IntArray
    kept: list[Run]
    sound: int | None


def rearrange(
    model: LanguageModel, caches: Sequence[Cache], texts: Sequence[Sequence[Piece]]
) -> None:
    """Implement `Segmented.rearrange` for caches built on `CacheBook`.

    Raises:
        ContextError: a text does not fit into the window, is empty, or holds unknown ids or tokens
            with several places. This and all other errors are raised before any change.
        ValueError: kept tokens are not in order, or a kept row would need another position.
        RuntimeError: the cache is borrowed and has no text of its own.
        StrategyError: the cache is of another kind.
    """
    books = [narrowed(cache, CacheBook, model.info.name) for cache in caches]
    plans = [plan(model, *pair) for pair in zip(books, texts, strict=True)]
    readings: list[Reading] = []
    for cache, new in zip(books, plans, strict=True):
        cache.take_apart(new.kept, len(new.tokens))
        cache.sound = new.sound
        kept = [run for run in new.kept if not run.is_front]
        readings.append(Reading(cache, new.tokens, new.positions, kept=kept))
    read(model, readings)


def plan(model: LanguageModel, cache: CacheBook, pieces: Sequence[Piece]) -> Rearrangement:
    """Plan the new content of `cache` without changing it. Raises the errors of `rearrange`."""
    cache.check_own()
    if cache.places.axes is not None:
        raise ContextError(
            f"{model.info.name} has read images, whose rows cannot be rearranged",
            hint="Do not use a context selection for prompts with images",
        )
    tokens: list[int] = []
    positions: list[IntArray] = []
    runs: list[Run] = []
    rows, end = cache.num_rows, 0
    for piece in pieces:
        start = len(tokens)
        if isinstance(piece, Kept):
            _check_kept(piece, end, len(cache.text))
            end = piece.stop
            tokens += cache.text[piece.start : piece.stop]
            positions.append(cache.places.between(piece.start, piece.stop))
            held = max(min(piece.stop, rows) - piece.start, 0)  # some tokens can be pending
            _append(runs, Run(start, start + held, piece.start))
        elif piece.token_ids:
            check_ids(model, piece.token_ids, "the new text")
            tokens += piece.token_ids
            positions.append(_fresh_positions(piece, start))
    if not tokens:
        raise ContextError("the new text is empty", hint="Keep or give at least one token")
    places = np.concatenate(positions)
    _check_places(model, places)
    runs = _without_last(runs, len(tokens) - 1)
    return Rearrangement(tokens, places, runs, _sound(cache, runs))


def _check_kept(piece: Kept, end: int, length: int) -> None:
    if not end <= piece.start <= piece.stop <= length:
        raise ValueError(
            f"kept tokens {piece.start} to {piece.stop} are not in order: they follow token {end} "
            f"of {length}"
        )


def _fresh_positions(piece: Fresh, start: int) -> IntArray:
    if piece.positions is None:
        return np.arange(start, start + len(piece.token_ids))
    if len(piece.positions) != len(piece.token_ids):
        raise ValueError(
            f"a piece has {len(piece.token_ids)} tokens, but {len(piece.positions)} positions"
        )
    return as_ids(piece.positions)


def _check_places(model: LanguageModel, places: IntArray) -> None:
    back = np.flatnonzero(np.diff(places) <= 0)
    if len(back) or places[0] < 0:
        index = int(back[0]) + 1 if len(back) else 0
        raise ValueError(
            f"token {index} of the new text would be at position {places[index]}, which does "
            "not follow the one before it; kept tokens keep their positions"
        )
    if places[-1] >= model.info.context_length:
        raise ContextError(
            f"the new text ends at position {places[-1]}; model {model.info.name} reads "
            f"{model.info.context_length}",
            hint="Select fewer chunks of the long input, or use positions without gaps",
        )


def _append(runs: list[Run], run: Run) -> None:
    """Append `run`; merge it with the last run if both continue in the old and the new text."""
    if not run:
        return
    last = runs[-1] if runs else None
    if last and last.stop == run.start and last.source + len(last) == run.source:
        runs[-1] = Run(last.start, run.stop, last.source)
    else:
        runs.append(run)


def _without_last(runs: Sequence[Run], last: int) -> list[Run]:
    """Return the runs without the row of the last token, which becomes pending."""
    cut = [Run(run.start, min(run.stop, last), run.source) for run in runs]
    return [run for run in cut if len(run) > 0]


def _sound(cache: CacheBook, runs: Sequence[Run]) -> int | None:
    """Count the rows of the new text that equal those of a fresh prefill; None means all."""
    front = runs[0].stop if runs and runs[0].is_front else 0
    stale = [run.start for run in runs if not run.is_front]
    if cache.sound is not None and cache.sound < front:
        return cache.sound
    return stale[0] if stale else None
