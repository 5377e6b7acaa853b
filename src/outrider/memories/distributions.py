"""The target's probabilities after the last few tokens, not only the ids (STAND).

Song et al., "Accelerated Test-Time Scaling with Model-Free Speculative Sampling" (arXiv
2506.04708): n-grams that store the mean of the distributions computed after them.
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
"""CPython's memory for a key of up to four tokens with its dictionary entry."""

Context = tuple[int, ...]


@dataclass(slots=True)
class Distributions:
    """`last n tokens -> the most likely next tokens, with probabilities`, bounded.

    The mean of the rows so far is stored: with count c, `mean * c / (c + 1) + row / (c + 1)`. Only
    the `entries` largest values are kept, so a mean sums to at most 1. The least recently used keys
    are evicted first.

    Attributes:
        orders: lengths n of the keys, longest first. The paper uses 4, 3, 2; a single token as last
            fallback adds the information of Token Recycling.
        entries: number of tokens stored for each key.
        max_keys: largest number of keys.

    Raises:
        OptionError: no lengths, or a capacity that is too small.
    """

    orders: tuple[int, ...] = (4, 3, 2, 1)
    entries: int = 10
    max_keys: int = 100_000
    vocab_size: int = field(default=0, init=False)
    """Width of the widest row learned so far."""
    _slots: dict[Context, int] = field(default_factory=dict, init=False, repr=False)
    _ids: NDArray[np.int32] = field(init=False, repr=False)
    _means: NDArray[np.float32] = field(init=False, repr=False)
    _counts: NDArray[np.int32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lengths = list(self.orders)
        if not lengths or min(lengths) < 1 or lengths != sorted(set(lengths), reverse=True):
            raise OptionError(
                f"orders are {self.orders}", hint="Give lengths of at least 1, longest first"
            )
        if not 1 <= self.entries <= 64 or self.max_keys < len(lengths):
            raise OptionError(
                f"entries is {self.entries} and max_keys {self.max_keys}",
                hint="Give 1 to 64 entries, and at least one key for each length",
            )
        self._allocate(0)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes of memory: the tables, plus an estimate of 260 for each key."""
        tables = self._ids.nbytes + self._means.nbytes + self._counts.nbytes
        return tables + _KEY_BYTES * len(self._slots)

    @property
    def longest(self) -> int:
        """Number of tokens that a lookup reads."""
        return self.orders[0]

    def find(self, context: Context) -> int:
        """Return the slot of the longest key that is a suffix of `context`; -1 if there is none."""
        size = len(context)
        for n in self.orders:
            if n <= size:
                slot = self._slots.get(context[size - n :])
                if slot is not None:
                    return slot
        return -1

    def ids(self, slots: Sequence[int]) -> NDArray[np.int32]:
        """Return `[slots, entries]` ids, most likely first; padded with -1."""
        return self._ids[slots]

    def means(self, slots: Sequence[int]) -> NDArray[np.float32]:
        """Return `[slots, entries]` mean probabilities; padded with 0."""
        return self._means[slots]

    def count(self, slot: int) -> int:
        """Return the number of rows in the mean of a slot."""
        return int(self._counts[slot])

    def learn(self, contexts: Sequence[Context], rows: Best, vocab_size: int) -> None:
        """Add the most likely tokens after each context to the means of its keys.

        `rows` contains `entries` probabilities per row; rows of -1 are skipped.
        """
        self.vocab_size = max(self.vocab_size, vocab_size)
        if rows.ids.shape[1] != self.entries:
            raise ValueError(f"rows hold {rows.ids.shape[1]} tokens, but means {self.entries}")
        good = np.flatnonzero(rows.ids[:, 0] >= 0)
        share = self.max_keys // len(self.orders)  # no key may be evicted in its own batch
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
        """The NumPy version of the compiled kernel."""
        while len(at):  # repeated keys are updated one row at a time
            _, first = np.unique(at, return_index=True)
            self._merge(at[first], rows.ids[of[first]], rows.values[of[first]])
            if len(first) == len(at):
                return
            at, of = np.delete(at, first), np.delete(of, first)

    def _slot(self, key: Context) -> int:
        """Return the slot of a key, which becomes the most recent; a new key gets an empty slot."""
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
        """Add one row to each of these slots, which are all different."""
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
        """Allocate space for `size` keys and keep the existing ones."""
        ids = np.full((size, self.entries), -1, dtype=np.int32)
        means = np.zeros((size, self.entries), dtype=np.float32)
        counts = np.zeros(size, dtype=np.int32)
        if size:
            known = len(self._slots)
            if known:
                ids[:known] = self._ids[:known]
                means[:known], counts[:known] = self._means[:known], self._counts[:known]
        self._ids, self._means, self._counts = ids, means, counts
