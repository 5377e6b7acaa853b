"""The tokens that follow two tokens, with weights: counted in a corpus, adapted to the text (ADED).

Liu et al., "Adaptive Draft-Verification for Efficient Large Language Model Decoding" (ADED, arXiv
2407.12021): the tri-gram matrix that approximates the target's distribution.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from outrider.core.errors import OptionError
from outrider.core.types import IntArray, as_ids
from outrider.memories.store import StorePage, check_together, open_store, write_store

_KEY_BYTES, _ENTRY_BYTES = 420, 56
"""CPython's memory for a key with its small dictionary, and for each id with its weight."""

Weights = dict[int, float]


@dataclass(slots=True)
class Trigrams:
    """`(a, b) -> {c: weight}`, bounded: the least recently updated keys are evicted first.

    Attributes:
        increment: added to the weight of a trigram each time it occurs in the text.
        cap: largest weight.
        successors: largest number of entries of one key; a new entry replaces the one with the
            smallest weight.
        max_keys: largest number of keys.

    Raises:
        OptionError: an increment or cap that is not above 0, or a capacity below 1.
    """

    increment: float = 0.04
    cap: float = 3.0
    successors: int = 12
    max_keys: int = 200_000
    _table: dict[int, Weights] = field(default_factory=dict, init=False, repr=False)
    _entries: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (0 < self.increment <= self.cap and self.successors > 0 and self.max_keys > 0):
            raise OptionError(
                f"increment is {self.increment}, cap {self.cap}, successors {self.successors}, "
                f"max_keys {self.max_keys}",
                hint="Give 0 < increment <= cap, and at least 1 for the others",
            )

    def __len__(self) -> int:
        return len(self._table)

    @property
    def nbytes(self) -> int:
        """Estimated bytes of memory: 420 per key and 56 per entry."""
        return _KEY_BYTES * len(self._table) + _ENTRY_BYTES * self._entries

    def after(self, a: int, b: int) -> Mapping[int, float]:
        """Return the weights of the tokens that follow `a b`; empty if unknown."""
        return self._table.get(a << 32 | b, _NOTHING)

    def bump(self, text: Sequence[int]) -> None:
        """Add `increment`, up to the cap, to every trigram of `text` (ids from 0)."""
        table, cap, step = self._table, self.cap, self.increment
        for i in range(2, len(text)):
            key, c = text[i - 2] << 32 | text[i - 1], text[i]
            weights = table.pop(key, None)
            if weights is None:
                weights = {}
            table[key] = weights  # becomes the newest key
            weight = weights.get(c)
            if weight is None:
                self._admit(weights, c, step)
            else:
                weights[c] = min(weight + step, cap)
            if len(table) > self.max_keys:
                self._entries -= len(table.pop(next(iter(table))))

    def _admit(self, weights: Weights, token: int, weight: float) -> None:
        if len(weights) >= self.successors:
            del weights[min(weights, key=weights.__getitem__)]
            self._entries -= 1
        weights[token] = weight
        self._entries += 1

    def build(self, texts: Iterable[Sequence[int] | IntArray]) -> None:
        """Count the trigrams of a corpus and set, for each of its keys, the relative frequencies of
        the most frequent successors. The most frequent keys are kept, up to `max_keys`."""
        counted = _count(texts)
        if not len(counted.ids):
            return
        order = np.argsort(counted.totals, kind="stable")[-self.max_keys :]
        for key in order.tolist():
            begin, end = counted.bounds[key], counted.bounds[key + 1]
            best = np.argsort(-counted.counts[begin:end], kind="stable")[: self.successors] + begin
            shares = counted.counts[best] / counted.totals[key]
            weights = zip(counted.ids[best].tolist(), shares.tolist(), strict=True)
            self._set(int(counted.keys[key]), dict(weights))

    def _set(self, key: int, weights: Weights) -> None:
        self._entries += len(weights) - len(self._table.pop(key, ()))
        self._table[key] = weights
        while len(self._table) > self.max_keys:
            self._entries -= len(self._table.pop(next(iter(self._table))))

    def items(self) -> Iterator[tuple[tuple[int, int], Mapping[int, float]]]:
        """Yield all keys with their weights, the least recently updated first."""
        for key, weights in self._table.items():
            yield (key >> 32, key & _LOW), weights

    def save(self, path: Path, fingerprint: str, *, force: bool = False) -> None:
        """Write the table as a store; `fingerprint` identifies the tokenizer of its ids.

        Raises:
            StoreError: `path` already exists, or it cannot be written.
        """
        tables = self._table.values()
        arrays = {
            "keys": np.array(list(self._table), dtype=np.int64),
            "bounds": np.cumsum([0, *map(len, tables)], dtype=np.int64),
            "ids": np.array([c for table in tables for c in table], dtype=np.int32),
            "weights": np.array([w for t in tables for w in t.values()], dtype=np.float32),
        }
        highest = max((max(key >> 32, key & _LOW, *t) for key, t in self._table.items()), default=0)
        page = StorePage(
            kind=_KIND,
            fingerprint=fingerprint,
            vocab_size=highest + 1,
            tokens=self._entries,
            documents=len(self._table),
        )
        write_store(path, page, arrays, force=force)

    def load(self, path: Path, fingerprint: str | None = None) -> None:
        """Add the content of a file that `save` wrote, with the largest weights of each key.

        Raises:
            StoreError: there is no such store, or it is damaged.
            VocabularyError: its ids belong to another tokenizer than `fingerprint`.
        """
        _, arrays = open_store(path, _KIND, _ARRAYS, fingerprint=fingerprint)
        keys, bounds, ids, weights = (arrays[name].tolist() for name in _ARRAYS)
        fits = len(bounds) == len(keys) + 1 and bounds[-1] == len(ids) == len(weights)
        check_together(path, fits)
        for key, begin, end in zip(keys, bounds[:-1], bounds[1:], strict=True):
            ranked = sorted(zip(weights[begin:end], ids[begin:end], strict=True), reverse=True)
            best = ranked[: self.successors]
            self._set(key, {c: min(max(w, 0.0), self.cap) for w, c in best})


_KIND = "trigrams"
_ARRAYS = {"keys": "int64", "bounds": "int64", "ids": "int32", "weights": "float32"}
_LOW = 0xFFFFFFFF
_NOTHING: Mapping[int, float] = {}


@dataclass(frozen=True, slots=True)
class _Counted:
    """The distinct trigrams of a corpus, by key: successors of key i at `bounds[i] : bounds[i +
    1]`."""

    keys: IntArray
    totals: IntArray
    bounds: IntArray
    ids: IntArray
    counts: IntArray


def _count(texts: Iterable[Sequence[int] | IntArray]) -> _Counted:
    parts = [as_ids(text) for text in texts]
    pairs = np.concatenate([t[:-2] << 32 | t[1:-1] for t in parts] or [as_ids(())])
    ids = np.concatenate([t[2:] for t in parts] or [as_ids(())])
    order = np.lexsort((ids, pairs))
    pairs, ids = pairs[order], ids[order]
    new = np.ones(len(ids), dtype=np.bool_)
    new[1:] = (pairs[1:] != pairs[:-1]) | (ids[1:] != ids[:-1])
    first = np.flatnonzero(new)
    counts = np.diff(np.append(first, len(ids)))
    keys, begin = np.unique(pairs[first], return_index=True)
    bounds = np.append(begin, len(first))
    totals = np.add.reduceat(counts, begin) if len(begin) else counts
    return _Counted(keys, totals, bounds, ids[first], counts)
