"""Hints: which token followed the last one, or the last two, earlier in the text.

A hint of level 3 is the token that followed the last two tokens most recently; of level 2, the one
that followed the last token; of level 1, the most frequent successor in other texts (a table);
level 0 is no hint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import IntArray

AFTER_TWO, AFTER_ONE, OF_OTHERS, NO_HINT = 3, 2, 1, 0


@runtime_checkable
class HintSource(Protocol):
    """The successors of one text."""

    def extend(
        self, text: Sequence[int], known: int, end: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Append tokens of the text; return the hint after each of them, and its level.

        Args:
            text: the text.
            known: number of its tokens that have been appended before.
            end: number of its tokens that are known afterwards, if there are more.
        """
        ...

    def find(self, before: int, token: int) -> tuple[int, int]:
        """Return the hint for what follows `token`, which follows `before`, and its level."""
        ...


@dataclass(slots=True)
class Hints:
    """The successors of one text, in dictionaries.

    Attributes:
        table: `[vocab]` the successor of each token in other texts, or -1.
    """

    table: NDArray[np.int32]
    _after_one: dict[int, int] = field(default_factory=dict[int, int])
    _after_two: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    _last: tuple[int, int] = (-1, -1)

    def extend(
        self, text: Sequence[int], known: int, end: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Append tokens of the text; return the hint after each of them, and its level."""
        fresh = text[known:end]
        words, levels = np.empty((2, len(fresh)), dtype=np.int32)
        for place, token in enumerate(fresh):
            self.add(int(token))
            words[place], levels[place] = self.find(*self._last)
        return words, levels

    def add(self, token: int) -> None:
        """Append a token of the text."""
        before, last = self._last
        if last >= 0:
            self._after_one[last] = token
        if before >= 0:
            self._after_two[before, last] = token
        self._last = last, token

    def find(self, before: int, token: int) -> tuple[int, int]:
        """Return the hint for what follows `token`, which follows `before`, and its level."""
        if (found := self._after_two.get((before, token))) is not None:
            return found, AFTER_TWO
        if (found := self._after_one.get(token)) is not None:
            return found, AFTER_ONE
        other = int(self.table[token])
        return (other, OF_OTHERS) if other >= 0 else (0, NO_HINT)


def count_successors(texts: Sequence[IntArray], vocab: int, least: int = 1) -> NDArray[np.int32]:
    """Return `[vocab]` the most frequent successor of each token; -1 if it was seen less often.

    Args:
        texts: token ids of each text.
        vocab: number of tokens.
        least: number of times that a token must precede its successor.
    """
    none = np.empty(0, dtype=np.int64)
    pairs = np.concatenate([none, *(t[:-1].astype(np.int64) * vocab + t[1:] for t in texts)])
    found, counts = np.unique(pairs, return_counts=True)
    table = np.full(vocab, -1, dtype=np.int32)
    order = np.argsort(counts, kind="stable")  # the most frequent one is written last
    kept = order[counts[order] >= least]
    table[found[kept] // vocab] = found[kept] % vocab
    return table
