"""Chooses the number of threads for a forward by measurement: more are not always faster.

A barrier between threads takes microseconds, and sometimes milliseconds if other programs use the
same processors. Small models and single rows are often fastest on one thread.
"""

from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.kernels.library import cores
from outrider.protocols import LanguageModel, Segment

_WIDTHS = (1, 4, 16)
"""Numbers of rows that are measured; other numbers use the result of the next smaller one."""
_CONTEXT = 64
_REPEATS = 7
_SECONDS = 0.25
"""Time limit in seconds; a large model gets fewer repeats."""
_GAIN = 0.95
"""More threads must reduce the time to this share: they take processors from other programs."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads by the number of rows in a forward: `counts[i]` from `widths[i]` rows on."""

    widths: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def fixed(cls, count: int) -> "Threads":
        """Use the same number of threads for all forwards."""
        return cls((1,), (count,))

    @classmethod
    def measured(cls, model: "_Measurable") -> "Threads":
        """Find the fastest number of threads for each width with a few forwards of `model`."""
        candidates = _candidates(cores())
        if len(candidates) == 1:
            return cls.fixed(1)
        before = model.threads
        try:
            return cls(_WIDTHS, tuple(_best(model, rows, candidates) for rows in _WIDTHS))
        finally:
            model.threads = before

    def of(self, rows: int) -> int:
        """Return the number of threads for a forward of `rows` rows."""
        found = self.counts[0]
        for width, count in zip(self.widths, self.counts, strict=True):
            if rows >= width:
                found = count
        return found


class _Measurable(LanguageModel, Protocol):
    """A model with a settable number of threads."""

    threads: Threads


def _candidates(count: int) -> list[int]:
    """Return 1, 2, 4, ... and `count`."""
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
    """Measure the median seconds of a forward with each number of threads, interleaved."""
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
