"""How many threads share a forward: measured, since more are not always faster.

A barrier between threads costs microseconds and, where processors are shared with others, now and
then milliseconds. Small models and single rows are often fastest on one thread.
"""

from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.kernels.library import cores
from outrider.protocols import LanguageModel, Segment

_WIDTHS = (1, 4, 16)
"""Rows at which the choice is measured; other numbers take that of the next one below."""
_CONTEXT = 64
_REPEATS = 7
_SECONDS = 0.25
"""Where a model is too large for all repeats, fewer have to do."""
_GAIN = 0.95
"""More threads must be faster by this much: they take processors from others."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads by the number of rows in a forward: `counts[i]` from `widths[i]` rows on."""

    widths: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def fixed(cls, count: int) -> "Threads":
        """Always the same."""
        return cls((1,), (count,))

    @classmethod
    def measured(cls, model: "_Measurable") -> "Threads":
        """The fastest for each width, by a few forwards of `model`."""
        candidates = _candidates(cores())
        if len(candidates) == 1:
            return cls.fixed(1)
        before = model.threads
        try:
            return cls(_WIDTHS, tuple(_best(model, rows, candidates) for rows in _WIDTHS))
        finally:
            model.threads = before

    def of(self, rows: int) -> int:
        """Threads for a forward of `rows` rows."""
        found = self.counts[0]
        for width, count in zip(self.widths, self.counts, strict=True):
            if rows >= width:
                found = count
        return found


class _Measurable(LanguageModel, Protocol):
    """A model that can be told how many threads to use."""

    threads: Threads


def _candidates(count: int) -> list[int]:
    """1, 2, 4, ... and all of them."""
    powers = [1 << i for i in range(count.bit_length()) if 1 << i <= count]
    return sorted({*powers, count})


def _best(model: _Measurable, rows: int, candidates: list[int]) -> int:
    best, fewest = candidates[0], float("inf")
    seconds = _seconds(model, rows, candidates)
    for count in candidates:
        if seconds[count] < fewest * _GAIN:
            best, fewest = count, seconds[count]
    return best


def _seconds(model: _Measurable, rows: int, candidates: list[int]) -> dict[int, float]:
    """Median seconds of a forward with each number of threads, measured in turn."""
    size = min(_CONTEXT, model.info.context_length - rows - 1)
    if size < 1:
        return dict.fromkeys(candidates, 0.0)
    ids = [i * 7919 % model.info.vocab_size for i in range(size)]
    [cache] = model.start([Prompt(token_ids=tuple(ids))])
    taken: dict[int, list[float]] = {count: [] for count in candidates}
    tokens, want = as_ids([1 % model.info.vocab_size] * (rows - 1)), as_ids([-1, *range(rows - 1)])
    begun = perf_counter()
    for repeat in range(_REPEATS):
        for count in candidates:
            model.threads = Threads.fixed(count)
            started = perf_counter()
            model.forward([Segment(cache, tokens if rows > 1 else NO_IDS)], [want])
            taken[count].append(perf_counter() - started)
            cache.commit(())
        if repeat and perf_counter() - begun > _SECONDS:
            break
    return {count: sorted(times)[len(times) // 2] for count, times in taken.items()}
