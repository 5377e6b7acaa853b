"""Measures the cost of a model's forwards on this machine."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch

from outrider.core.errors import OptionError
from outrider.core.types import Prompt, as_ids
from outrider.policies.curve import CostCurve
from outrider.policies.surface import CostSurface, Forward, fitted
from outrider.protocols import Cache, LanguageModel, Segment

__all__ = ["CostCurve", "forward_seconds", "measure_costs", "measure_surface"]

WIDTHS = (1, 2, 3, 4, 6, 8, 16, 32)
"""Numbers of rows for which forwards are timed."""

_NARROW, _PATIENCE = 8, 10.0
"""Forwards of at most this many rows are repeated `least` times, within this many limits."""


_LEAST = 6
"""Runs of each narrow width for a curve; fewer if they take long."""


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
    runs = {n: (as_ids(walk[context + 1 :][: n - 1]), as_ids(range(-1, n - 1))) for n in widths}
    for tokens, want in runs.values():
        _timed(model, cache, tokens, want)
    times: dict[int, list[float]] = {n: [] for n in widths}
    begun = perf_counter()
    for turn in range(repeats):
        for n, (tokens, want) in runs.items():
            if turn and limit is not None:
                more = _PATIENCE if turn < least and n <= _NARROW else 1.0
                if perf_counter() - begun > more * limit:
                    continue
            times[n].append(_timed(model, cache, tokens, want))
    return {n: summary(seconds) for n, seconds in times.items()}


def measure_costs(
    model: LanguageModel, widths: Sequence[int] = WIDTHS, *, limit: float = 0.1
) -> CostCurve:
    """Measure a quick cost curve, in about `limit` seconds besides prefill and warm-up; in up to
    ten times as long for a model whose narrow forwards would otherwise run only once.

    The curve uses the best times: with so few runs, load on the machine would distort medians, and
    decisions depend on the ratio between widths.

    Raises:
        OptionError: not even one row fits the model's window.
    """
    seconds = forward_seconds(
        model, widths, context=128, repeats=25, limit=limit, least=_LEAST, summary=min
    )
    if not seconds:
        raise OptionError(
            f"model {model.info.name} has a context of {model.info.context_length}, too few tokens "
            "to measure its speed",
            hint="Give a model with a larger context window",
        )
    return CostCurve.of(seconds)


def measure_surface(model: LanguageModel, *, limit: float = 0.5) -> CostSurface:
    """Measure a quick cost surface: forwards of one sequence, and of several.

    Args:
        model: the model to time.
        limit: seconds for the forwards of one sequence, and again for those of several; prefills
            and warm-ups are not counted.

    Raises:
        OptionError: not even one row fits the model's window.
    """
    context = max(min(_CONTEXT, model.info.context_length - _WIDE[-1]), 0)
    alone = forward_seconds(
        model, _WIDE, context=context, repeats=15, limit=limit, least=_LEAST, summary=min
    )
    if not alone:
        return CostSurface(curve=measure_costs(model))
    walk = _walk(4 * context + 8, model.info.vocab_size)
    length = min(4 * context, model.info.context_length - 9)
    texts = [Prompt(token_ids=tuple(walk[: context + 1]))] * _TOGETHER[-1][0]
    caches = list(model.start(texts))
    caches += model.start([Prompt(token_ids=tuple(walk[: max(length, 1)]))])
    begun = perf_counter()
    found: dict[tuple[int, int], list[float]] = {}
    for turn in range(5):
        for count, rows in (*_TOGETHER, (0, 1)):
            if turn and perf_counter() - begun > limit:
                continue
            chosen = caches[:count] if count else caches[-1:]
            found.setdefault((count, rows), []).append(_timed_together(model, chosen, walk, rows))
    sizes = {
        shape: Forward(sequences=shape[0], rows=shape[0] * shape[1], context=shape[0] * context)
        if shape[0]
        else Forward(sequences=1, rows=1, context=length)
        for shape in found
    }
    return fitted(alone, [(sizes[shape], min(times)) for shape, times in found.items()], context)


_CONTEXT = 128
_WIDE = (1, 2, 3, 4, 6, 8, 16, 32, 64, 256)
"""Rows of one sequence that are timed: also those of a part of a prompt."""
_TOGETHER = ((2, 1), (4, 1), (4, 4), (8, 1), (8, 2), (16, 1))
"""Sequences and rows of each that are timed together, sequences ascending."""


def _timed_together(
    model: LanguageModel, caches: Sequence[Cache], walk: Sequence[int], rows: int
) -> float:
    tokens, want = as_ids(walk[: rows - 1]), as_ids(range(-1, rows - 1))
    begun = perf_counter()
    model.forward([Segment(cache, tokens) for cache in caches], [want] * len(caches))
    elapsed = perf_counter() - begun
    for cache in caches:
        cache.commit(())
    return elapsed


def _timed(model: LanguageModel, cache: Any, tokens: Any, want: Any) -> float:
    begun = perf_counter()
    [rows] = model.forward([Segment(cache, tokens)], [want])
    if rows.logits.is_cuda:
        torch.cuda.synchronize(rows.logits.device)
    elapsed = perf_counter() - begun
    cache.commit(())
    return elapsed


def _walk(length: int, vocab_size: int) -> list[int]:
    """Return token ids of a fixed pseudo-random sequence (a linear congruential generator)."""
    state, ids = 12345, []
    for _ in range(length):
        state = (1103515245 * state + 12345) % 2**31
        ids.append((state >> 8) % vocab_size)
    return ids
