"""Measures the cost of a model's forwards on this machine."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import torch

from outrider.core.errors import OptionError
from outrider.core.types import IntArray, Prompt, as_ids
from outrider.policies.surface import CostSurface, Forward
from outrider.protocols import Cache, LanguageModel, Segment

__all__ = ["CostSurface", "forward_seconds", "measure_costs", "measure_surface"]

WIDTHS = (1, 2, 3, 4, 6, 8, 16, 32)
"""Numbers of rows for which forwards are timed."""

_NARROW, _PATIENCE = 8, 10.0
"""Forwards of at most this many rows are repeated `least` times, within this many limits."""


_LEAST, _PATIENT = 6, 16
"""Runs of each narrow width where a model is loaded, and for a server; fewer if they take long."""

BATCHES = ((4, 1), (8, 1))
"""Sequences and rows of each that are timed when a target is loaded."""
_CONTEXT, _LONGER = 128, 8
"""Tokens of a text, and how many times as long the longer text is."""
_TURNS = 6
"""Runs of each shape of several sequences, fewer if they take long."""
_WIDE = (1, 2, 3, 4, 6, 8, 16, 32, 64, 256)
"""Rows of one sequence that are timed for a server: also those of a part of a prompt."""
_TOGETHER = ((2, 1), (4, 1), (4, 4), (8, 1), (8, 2), (16, 1))
"""Sequences and rows of each that are timed for a server."""


def forward_seconds(
    model: LanguageModel,
    widths: Sequence[int] = WIDTHS,
    *,
    context: int = 200,
    repeats: int = 15,
    limit: float | None = None,
    least: int = 1,
    summary: Callable[[Sequence[float]], float] = median,
) -> dict[int, float]:
    """Measure the wall seconds of one forward over n rows of one text, the median of several runs.

    The rows are a chain: the pending token and n - 1 drafted ones. Runs of all widths are
    interleaved, so that a slow phase of the machine affects all of them. Each width runs once
    before to warm up.

    Args:
        model: the model to time.
        widths: numbers of rows, each at least 1; those larger than the window are left out.
        context: tokens cached before the rows, fewer if the window is small.
        repeats: timed runs of each width.
        limit: seconds after which no further run begins (each width has at least one run); None
            sets no limit. The prefill and the warm-up are not counted.
        least: runs of each of the narrow widths that are wanted even if they take ten limits.
        summary: reduces the times of one width to one number.

    Returns:
        Seconds by width.
    """
    widths = sorted({n for n in widths if n < model.info.context_length})
    if not widths:
        return {}
    context = max(min(context, model.info.context_length - widths[-1]), 0)
    walk = _walk(context + widths[-1], model.info.vocab_size)
    [cache] = model.start([Prompt(token_ids=tuple(walk[: context + 1]))])
    runs = {n: _chain(walk[context + 1 :], n) for n in widths}
    for tokens, want in runs.values():
        _timed(model, [cache], tokens, want)
    times: dict[int, list[float]] = {n: [] for n in widths}
    begun = perf_counter()
    for turn in range(repeats):
        for n, (tokens, want) in runs.items():
            if turn and limit is not None:
                more = _PATIENCE if turn < least and n <= _NARROW else 1.0
                if perf_counter() - begun > more * limit:
                    continue
            times[n].append(_timed(model, [cache], tokens, want))
    return {n: summary(seconds) for n, seconds in times.items()}


def measure_costs(
    model: LanguageModel,
    widths: Sequence[int] = WIDTHS,
    *,
    limit: float = 0.1,
    least: int = _LEAST,
    together: Sequence[tuple[int, int]] = (),
) -> CostSurface:
    """Measure a quick cost surface, in about `limit` seconds besides prefill and warm-up; in up to
    ten times as long for a model whose narrow forwards would otherwise run only once.

    The surface uses the best times: with so few runs, load on the machine would distort medians,
    and decisions depend on the ratio between widths.

    Args:
        model: the model to time.
        widths: numbers of rows of one sequence.
        limit: seconds for the forwards of one sequence, and again for those of several.
        least: runs of each narrow width that are wanted even if they take ten limits.
        together: pairs `(sequences, rows of each)` that are timed as well; without any, further
            sequences and longer texts cost nothing.

    Raises:
        OptionError: not even one row fits the model's window.
    """
    context = max(min(_CONTEXT, model.info.context_length - max(widths)), 0)
    seconds = forward_seconds(
        model, widths, context=context, repeats=25, limit=limit, least=least, summary=min
    )
    if not seconds:
        raise OptionError(
            f"model {model.info.name} has a context of {model.info.context_length}, too few tokens "
            "to measure its speed",
            hint="Give a model with a larger context window",
        )
    if not together or context < _CONTEXT:
        return CostSurface.of(seconds)
    return CostSurface.fitted(seconds, _together(model, together, context, limit), context)


def _together(
    model: LanguageModel, shapes: Sequence[tuple[int, int]], context: int, limit: float
) -> list[tuple[Forward, float]]:
    """Return the best times of forwards of several sequences, and of one with a longer text."""
    length = min(_LONGER * context, model.info.context_length - 2)
    walk = _walk(length + 1, model.info.vocab_size)
    text = Prompt(token_ids=tuple(walk[: context + 1]))
    caches = model.start([text] * max(count for count, _ in shapes))
    long = model.start([Prompt(token_ids=tuple(walk))])
    runs = [
        (Forward(sequences=n, rows=n * rows, context=n * context), caches[:n], rows)
        for n, rows in shapes
    ]
    runs.append((Forward(sequences=1, rows=1, context=length), long, 1))
    times: list[list[float]] = [[] for _ in runs]
    begun = perf_counter()
    for turn in range(_TURNS):
        for found, (_, chosen, rows) in zip(times, runs, strict=True):
            if turn < 2 or perf_counter() - begun < limit:
                found.append(_timed(model, chosen, *_chain(walk, rows)))
    return [
        (forward, min(found[1:]))  # the first run copies the rows that the caches share
        for found, (forward, _, _) in zip(times, runs, strict=True)
    ]


def measure_surface(model: LanguageModel) -> CostSurface:
    """Measure the costs that a server needs, in one or two seconds, and in up to five for a large
    model: also of parts of prompts. Decisions of hours depend on them, so that narrow forwards are
    repeated more often than where a model is loaded. Raises `OptionError`.
    """
    widths = [rows for rows in _WIDE if rows + _CONTEXT < model.info.context_length]
    return measure_costs(model, widths or (1,), limit=0.5, least=_PATIENT, together=_TOGETHER)


def _timed(
    model: LanguageModel, caches: Sequence[Cache], tokens: IntArray, want: IntArray
) -> float:
    """Return the seconds of a forward that appends the same tokens to each cache."""
    begun = perf_counter()
    rows = model.forward([Segment(cache, tokens) for cache in caches], [want] * len(caches))
    if rows[0].logits.is_cuda:
        torch.cuda.synchronize(rows[0].logits.device)
    elapsed = perf_counter() - begun
    for cache in caches:
        cache.commit(())
    return elapsed


def _chain(walk: Sequence[int], rows: int) -> tuple[IntArray, IntArray]:
    """Return the drafted tokens of a chain of `rows` rows, and the rows that are wanted."""
    return as_ids(walk[: rows - 1]), as_ids(range(-1, rows - 1))


def _walk(length: int, vocab_size: int) -> list[int]:
    """Return token ids of a fixed pseudo-random sequence (a linear congruential generator)."""
    state, ids = 12345, []
    for _ in range(length):
        state = (1103515245 * state + 12345) % 2**31
        ids.append((state >> 8) % vocab_size)
    return ids
