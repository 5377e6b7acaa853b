"""What a model's forwards cost on this machine, measured."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch

from outrider.core.types import Prompt, as_ids
from outrider.policies.curve import CostCurve
from outrider.protocols import LanguageModel, Segment

__all__ = ["CostCurve", "forward_seconds", "measure_costs"]

WIDTHS = (1, 2, 4, 8, 16, 32)
"""Rows of the forwards that are timed."""


def forward_seconds(
    model: LanguageModel,
    widths: Sequence[int] = WIDTHS,
    *,
    context: int = 200,
    repeats: int = 15,
    limit: float | None = None,
    summary: Callable[[Sequence[float]], float] = median,
) -> dict[int, float]:
    """Wall seconds, the median of several runs, of one forward over n rows of one text.

    The rows are a chain: the pending token and n - 1 drafted ones. Widths are interleaved, so that
    a slow spell of the machine meets all of them, and each is run once before to warm up.

    Args:
        model: what is timed.
        widths: numbers of rows, each at least 1; those wider than the window are left out.
        context: tokens cached before the rows, fewer where the window is small.
        repeats: timed runs of each width.
        limit: seconds after which no further run begins (each width has one by then); None sets
            none. The prefill and the warm-up are not counted.
        summary: what is made of the times of one width.

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
            if turn and limit is not None and perf_counter() - begun > limit:
                break
            times[n].append(_timed(model, cache, tokens, want))
    return {n: summary(seconds) for n, seconds in times.items()}


def measure_costs(
    model: LanguageModel, widths: Sequence[int] = WIDTHS, *, limit: float = 0.1
) -> CostCurve:
    """A quick cost curve: at most about `limit` seconds beside the prefill and the warm-up.

    Made of the best times: in so few runs a busy machine would bend a curve of medians, and what
    counts for a decision is how the widths compare.

    Raises `OptionError` when not even one row fits the model's window.
    """
    seconds = forward_seconds(model, widths, context=128, repeats=25, limit=limit, summary=min)
    return CostCurve.of(seconds)


def _timed(model: LanguageModel, cache: Any, tokens: Any, want: Any) -> float:
    begun = perf_counter()
    [rows] = model.forward([Segment(cache, tokens)], [want])
    if rows.logits.is_cuda:
        torch.cuda.synchronize(rows.logits.device)
    elapsed = perf_counter() - begun
    cache.commit(())
    return elapsed


def _walk(length: int, vocab_size: int) -> list[int]:
    """Token ids of a fixed pseudo-random walk (a linear congruential generator)."""
    state, ids = 12345, []
    for _ in range(length):
        state = (1103515245 * state + 12345) % 2**31
        ids.append((state >> 8) % vocab_size)
    return ids
