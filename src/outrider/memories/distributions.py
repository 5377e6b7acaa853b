"""What a target thought likely after the last few tokens: probabilities, not only ids (STAND).

Song et al., "Accelerated Test-Time Scaling with Model-Free Speculative Sampling" (arXiv
2506.04708): n-grams that remember the mean of the distributions seen after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from outrider import kernels
from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.memories.rows import Best

_KEY_BYTES = 260
"""What CPython takes for a key of up to four tokens and its place in a dictionary."""

Context = tuple[int, ...]


@dataclass(slots=True)
class Distributions:
    """`last n tokens -> the likeliest tokens after them, with probabilities`, bounded.

    The mean of the rows seen so far is kept: with count c, `mean * c / (c + 1) + row / (c + 1)`.
    Only the `entries` largest remain, so a mean sums to at most 1. Keys that were not seen for
    longest go first.

    Attributes:
        orders: lengths n of the keys, longest first. The paper has 4, 3, 2; a single token as last
            resort adds what Token Recycling knows.
        entries: tokens kept for each key.
        max_keys: most keys.

    Raises:
        OptionError: no lengths, or no room.
    """

    orders: tuple[int, ...] = (4, 3, 2, 1)
    entries: int = 10
    max_keys: int = 100_000
    vocab_size: int = field(default=0, init=False)
    """Width of the widest row learnt from."""
    _slots: dict[Context, int] = field(default_factory=dict, init=False, repr=False)
    _ids: NDArray[np.int32] = field(init=False, repr=False)
    _means: NDArray[np.float32] = field(init=False, repr=False)
    _counts: NDArray[np.int32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lengths = list(self.orders)
        if not lengths or min(lengths) < 1 or lengths != sorted(set(lengths), reverse=True):
            raise OptionError(
                f"keys of {self.orders} tokens", hint="Give lengths from 1 up, longest first"
            )
        if not 1 <= self.entries <= 64 or self.max_keys < len(lengths):
            raise OptionError(
                f"{self.entries} entries for each of {self.max_keys} keys",
                hint="Give 1 to 64 entries, and a key for each length",
            )
        self._allocate(0)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes held: the tables, and by formula 260 for each key."""
        tables = self._ids.nbytes + self._means.nbytes + self._counts.nbytes
        return tables + _KEY_BYTES * len(self._slots)

    @property
    def longest(self) -> int:
        """Tokens that a look-up reads."""
        return self.orders[0]

    def find(self, context: Context) -> int:
        """The slot of the longest key that `context` ends with; -1 where there is none."""
        size = len(context)
        for n in self.orders:
            if n <= size:
                slot = self._slots.get(context[size - n :])
                if slot is not None:
                    return slot
        return -1

    def ids(self, slots: Sequence[int]) -> NDArray[np.int32]:
        """`[slots, entries]`, likeliest first; -1 where fewer are known."""
        return self._ids[slots]

    def means(self, slots: Sequence[int]) -> NDArray[np.float32]:
        """`[slots, entries]` mean probabilities, 0 where fewer tokens are known."""
        return self._means[slots]

    def count(self, slot: int) -> int:
        """Rows that a mean was made of."""
        return int(self._counts[slot])

    def learn(self, contexts: Sequence[Context], rows: Best, vocab_size: int) -> None:
        """Take the likeliest tokens after each context into the means of its keys.

        `rows` holds `entries` probabilities a row; rows of -1 are passed over.
        """
        self.vocab_size = max(self.vocab_size, vocab_size)
        if rows.ids.shape[1] != self.entries:
            raise ValueError(f"rows of {rows.ids.shape[1]} tokens, and means of {self.entries}")
        good = np.flatnonzero(rows.ids[:, 0] >= 0)
        share = self.max_keys // len(self.orders)  # so that no key is evicted in its own batch
        for begin in range(0, len(good), share):
            self._learn(contexts, rows, good[begin : begin + share].tolist())

    def _learn(self, contexts: Sequence[Context], rows: Best, numbers: list[int]) -> None:
        slots: list[int] = []
        source: list[int] = []
        for number in numbers:
            context = contexts[number]
            size = len(context)
            for n in self.orders:
                if n <= size:
                    slots.append(self._slot(context[size - n :]))
                    source.append(number)
        at, of = np.array(slots, dtype=np.int64), np.array(source, dtype=np.int64)
        if kernels.available():
            kernels.blend(at, of, rows.ids, rows.values, self._ids, self._means, self._counts)
        else:
            self._blend(at, of, rows)

    def _blend(self, at: IntArray, of: IntArray, rows: Best) -> None:
        """What the kernel does, by NumPy."""
        while len(at):  # a key that occurs twice is met twice, one row after the other
            _, first = np.unique(at, return_index=True)
            self._merge(at[first], rows.ids[of[first]], rows.values[of[first]])
            if len(first) == len(at):
                return
            at, of = np.delete(at, first), np.delete(of, first)

    def _slot(self, key: Context) -> int:
        """The slot of a key, which becomes the newest; a key that is new gets an empty one."""
        slot = self._slots.pop(key, None)
        if slot is None:
            slot = len(self._slots)
            if slot >= self.max_keys:
                slot = self._slots.pop(next(iter(self._slots)))
            elif slot >= len(self._counts):
                self._allocate(min(max(2 * slot, 256), self.max_keys))
            self._ids[slot], self._means[slot], self._counts[slot] = -1, 0.0, 0
        self._slots[key] = slot
        return slot

    def _merge(self, slots: IntArray, ids: NDArray[np.int32], row: NDArray[np.float32]) -> None:
        """One more row for each of these slots, all of them different."""
        old, count = self._ids[slots], self._counts[slots][:, None].astype(np.float32)
        same = (old[:, :, None] == ids[:, None, :]) & (ids >= 0)[:, None, :]
        again = np.where(same, row[:, None, :], np.float32(0.0)).sum(-1)
        fresh = np.where(same.any(1), np.float32(0.0), row)
        weight = np.concatenate((self._means[slots] * count + again, fresh), axis=1) / (count + 1.0)
        both = np.where(weight > 0.0, np.concatenate((old, ids), axis=1), np.int32(-1))
        order = np.argsort(-weight, axis=1, kind="stable")[:, : self.entries]
        self._ids[slots] = np.take_along_axis(both, order, axis=1)
        self._means[slots] = np.take_along_axis(weight, order, axis=1)
        self._counts[slots] += 1

    def _allocate(self, size: int) -> None:
        """Make room for `size` keys, and keep what there is."""
        ids = np.full((size, self.entries), -1, dtype=np.int32)
        means = np.zeros((size, self.entries), dtype=np.float32)
        counts = np.zeros(size, dtype=np.int32)
        if size:
            known = len(self._slots)
            if known:
                ids[:known] = self._ids[:known]
                means[:known], counts[:known] = self._means[:known], self._counts[:known]
        self._ids, self._means, self._counts = ids, means, counts
