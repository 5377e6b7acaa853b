"""Decides which chunks are read: top-k by score, pins, a budget, and swaps with hysteresis."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
from jaxtyping import Float64

from outrider.context.config import ContextConfig
from outrider.context.rankers.ranking import Index
from outrider.core.errors import ContextError, OptionError
from outrider.core.types import LongContext, Passage


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision: the scores of all chunks, and the resulting changes.

    Attributes:
        generated: number of tokens generated before it.
        scores: `[chunks]`; if there was nothing to decide, the previous scores, or 0.
        admitted: chunks that are newly read.
        evicted: chunks that are no longer read.
        chosen: all chunks that are read from now on, ascending.
    """

    generated: int
    scores: Float64[np.ndarray, " chunks"]
    admitted: tuple[int, ...]
    evicted: tuple[int, ...]
    chosen: tuple[int, ...]


@dataclass(slots=True)
class Selection:
    """The state of one selection. Deterministic: of equal scores, the lower index is preferred.

    Attributes:
        context: the long input.
        index: scores its chunks.
        config: number of chunks (k), hysteresis, swaps.
        chunk_budget: largest total number of tokens of the chosen chunks.
        decisions: all decisions so far; the first is made before the prompt is read.
    """

    context: LongContext
    index: Index
    config: ContextConfig
    chunk_budget: int
    decisions: list[Decision] = field(default_factory=list)

    @property
    def chosen(self) -> tuple[int, ...]:
        """Chunks that are read now, ascending."""
        return self.decisions[-1].chosen

    @property
    def pins(self) -> frozenset[int]:
        """Chunks that are never swapped.

        These are the chunks that the context pins and, with `pin_ends`, the first and the last one,
        if at least one chunk can still be chosen by its score.
        """
        pinned, last = self.context.pinned, len(self.context.chunks) - 1
        if not self.config.pin_ends or last < 0:
            return pinned
        pins = pinned | ({0, last} - self.context.banned)
        others = [len(self.context.chunks[i]) for i in self._allowed() - pins]
        tokens = self._tokens(pins) + min(others, default=0)
        fits = len(pins) + bool(others) <= self._places_at(0) and tokens <= self.chunk_budget
        return pins if fits else pinned

    def begin(self) -> Decision:
        """Make the first choice: pins, then the best chunks by the instruction.

        Raises `ContextError` if the pinned chunks, or a single chunk if none is pinned, do not fit
        into `chunk_budget`.
        """
        self.decisions.clear()
        self.check()
        chosen, allowed = set(self.pins), self._allowed()
        if len(allowed) <= self._places and self._tokens(allowed) <= self.chunk_budget:
            scores = np.zeros(len(self.context.chunks))
            chosen |= allowed
        else:
            scores = self._scores(None)
            self._fill(chosen, scores)
        return self._note(0, scores, set(), chosen)

    def refresh(self, generated: int, recent: Passage) -> Decision:
        """Score again by the instruction and the last generated tokens, and swap where it helps.

        First, free places are filled; `growth` adds some at each refresh. Then the best unread
        chunk replaces the worst chosen one, or several worst ones if it is larger, if its score
        exceeds each of theirs by more than `hysteresis`.
        """
        before, after = set(self.chosen), set(self.chosen)
        if before >= self._allowed():
            return self._note(generated, self.decisions[-1].scores, before, after)
        scores = self._scores(recent)
        self._fill(after, scores)
        for _ in range(self.config.max_swaps):
            if not self._swap(after, scores):
                break
        return self._note(generated, scores, before, after)

    def fork(self) -> "Selection":
        """Return an independent copy of the state."""
        return replace(self, decisions=list(self.decisions))

    # -- limits and scores -------------------------------------------------------------------

    @property
    def _places(self) -> int:
        """Return how many chunks may be chosen at the next decision."""
        return self._places_at(len(self.decisions))

    def _places_at(self, decision: int) -> int:
        """Return how many chunks may be chosen at that decision (k_j)."""
        chunks = len(self.context.chunks)
        grown = self.config.kept(chunks) + self.config.growth * decision
        return min(max(grown, len(self.context.pinned)), chunks)

    def _allowed(self) -> frozenset[int]:
        return frozenset(range(len(self.context.chunks))) - self.context.banned

    def _tokens(self, chunks: Iterable[int]) -> int:
        return sum(len(self.context.chunks[i]) for i in chunks)

    def _scores(self, recent: Passage | None) -> Float64[np.ndarray, " chunks"]:
        """Return the scores of the ranker; chunks that it cannot score get the lowest score."""
        found = self.index.scores(self.context.query, recent, self.config.query_mix)
        scores, chunks = np.asarray(found, dtype=np.float64), len(self.context.chunks)
        if scores.shape != (chunks,):
            raise OptionError(
                f"the ranker returned scores of shape {scores.shape} for {chunks} chunks",
                hint="Return one number per chunk from Index.scores, in the order of the chunks",
            )
        if np.isfinite(scores).all():
            return scores
        return np.nan_to_num(scores, nan=-1.0, posinf=1.0, neginf=-1.0)

    def check(self) -> None:
        """Raise `ContextError` if no chunk can be chosen; nothing is scored."""
        pinned, allowed = self.context.pinned, self._allowed()
        hint = f"Raise the budget, or lower chunk_size below {self.config.chunk_size}"
        if (size := self._tokens(pinned)) > self.chunk_budget:
            raise ContextError(
                f"the {len(pinned)} pinned chunks have {size} tokens, but at most "
                f"{self.chunk_budget} fit",
                hint=f"{hint}, or pin fewer",
            )
        smallest = min((len(self.context.chunks[i]) for i in allowed), default=0)
        if smallest > self.chunk_budget:
            raise ContextError(
                f"the smallest chunk has {smallest} tokens, but at most {self.chunk_budget} fit",
                hint=hint,
            )

    # -- decisions --------------------------------------------------------------------------

    def _outside(self, chosen: set[int], scores: np.ndarray) -> list[int]:
        """Return the chunks that may be admitted, best first."""
        return sorted(self._allowed() - chosen, key=lambda i: (-scores[i], i))

    def _fill(self, chosen: set[int], scores: np.ndarray) -> None:
        """Admit the best chunks while there are places; skip a chunk that does not fit."""
        free, chunk_budget = self._places - len(chosen), self.chunk_budget - self._tokens(chosen)
        for chunk in self._outside(chosen, scores):
            if free > 0 and (size := len(self.context.chunks[chunk])) <= chunk_budget:
                chosen.add(chunk)
                free, chunk_budget = free - 1, chunk_budget - size

    def _swap(self, chosen: set[int], scores: np.ndarray) -> bool:
        """Admit the best chunk that can replace enough worse ones; false if there is none."""
        worst = sorted(chosen - self.pins, key=lambda i: (scores[i], -i))
        bars = scores[worst] + self.config.hysteresis
        freed = [0, *accumulate(len(self.context.chunks[i]) for i in worst)]
        places, chunk_budget = self._places - len(chosen), self.chunk_budget - self._tokens(chosen)
        for chunk in self._outside(chosen, scores):
            size = len(self.context.chunks[chunk])
            gone = max(0, 1 - places, bisect_left(freed, size - chunk_budget))
            if gone <= np.searchsorted(bars, scores[chunk]):
                chosen.difference_update(worst[:gone])
                chosen.add(chunk)
                return True
        return False

    def _note(
        self, generated: int, scores: np.ndarray, before: set[int], after: set[int]
    ) -> Decision:
        admitted, evicted = tuple(sorted(after - before)), tuple(sorted(before - after))
        decision = Decision(generated, scores, admitted, evicted, tuple(sorted(after)))
        self.decisions.append(decision)
        return decision
