"""For every token, the most likely successors in a recent row of the target (Token Recycling).

Luo et al., "Turning Trash into Treasure" (arXiv 2408.08696): the adjacency matrix M `[vocab, k]`,
updated from every verified row, including rows of rejected nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.types import IntArray
from outrider.kernels.forking import one_torch_thread
from outrider.memories.rows import best_tokens

_MOST_WAITING, _WAITING_NUMBERS = 64, 1 << 20
"""Limits of a batch of rows that are learned together: number of rows, and numbers in them."""

LARGEST_VOCABULARY = 1 << 22
"""Larger ids are not stored, so that a single invalid id cannot allocate gigabytes."""


_SUCCESSORS = Range(1, 64, hint="Keep 1 to 64 successors for each token")


@dataclass(slots=True)
class Adjacency:
    """A matrix `[vocab, k]` of 32-bit ids, best first; -1 for unknown successors.

    It is allocated when the width of the first logits (or the largest id of a prompt) is known. A
    row of -1 follows the last one, so that the index -1 gives -1.

    Attributes:
        k: number of successors stored for each token.

    Raises:
        OptionError: k is not from 1 to 64.
    """

    k: int = 8
    _table: NDArray[np.int32] = field(init=False, repr=False)
    _waiting: list[tuple[int, Tensor]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        _SUCCESSORS.check("k", self.k)
        self._table = np.full((1, self.k), -1, dtype=np.int32)

    @property
    def vocab_size(self) -> int:
        """Number of tokens for which the matrix has a row."""
        return len(self._table) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of memory: `(vocab_size + 1) * k * 4`, including the row of -1, plus the waiting
        rows of logits, at most 4 MiB."""
        return self._table.nbytes + sum(row.nbytes for _, row in self._waiting)

    @property
    def flat(self) -> NDArray[np.int32]:
        """The matrix as a one-dimensional view: the successor of rank r of token t is at `t * k +
        r`."""
        self.settle()
        return self._table.reshape(-1)

    def successors(self, token: int) -> list[int]:
        """Return the known successors of `token`, best first."""
        self.settle()
        if not 0 <= token < self.vocab_size:
            return []
        return [t for t in self._table[token].tolist() if t >= 0]

    def learn(
        self,
        tokens: IntArray,
        logits: Float[Tensor, "rows vocab"],
        accepted: Sequence[int] = (0,),
    ) -> None:
        """Set the row of each of `tokens` `[rows]` to the k best of the logits that followed it.

        Among equal tokens the last has priority, but rows in `accepted` have priority over all
        others. Rows that are not finite, and ids outside the vocabulary, are skipped.
        """
        self.settle()
        logits = logits[:, :LARGEST_VOCABULARY]
        self.reserve(logits.shape[1])
        ids = best_tokens(logits, self.k).ids
        if ids[:, 0].min() >= 0 and tokens.max() < self.vocab_size and tokens.min() >= 0:
            self._table[tokens] = ids  # NumPy keeps the last value of a repeated index
            last = list(accepted)
            self._table[tokens[last]] = ids[last]
            return
        good = (ids[:, 0] >= 0) & (tokens >= 0) & (tokens < self.vocab_size)
        self._table[tokens[good]] = ids[good]
        last = [row for row in accepted if good[row]]
        self._table[tokens[last]] = ids[last]

    def learn_later(self, token: int, logits: Float[Tensor, "1 vocab"]) -> None:
        """Queue one row for `learn`. The row is learned before the next read, because many rows
        together cost little more than one."""
        if logits.untyped_storage().nbytes() > 2 * logits.nbytes:
            logits = logits.clone()  # otherwise it keeps the whole forward's rows alive
        self._waiting.append((token, logits))
        if len(self._waiting) >= min(_MOST_WAITING, max(_WAITING_NUMBERS // logits.shape[1], 1)):
            self.settle()

    def settle(self) -> None:
        """Learn the queued rows, in their order."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        width = waiting[-1][1].shape[1]
        same = [(token, row) for token, row in waiting if row.shape[1] == width]
        with one_torch_thread():
            rows = torch.cat([row for _, row in same])
        self.learn(np.array([token for token, _ in same]), rows, accepted=())

    def learn_text(self, text: IntArray) -> None:
        """Put the successors of each token in `text` first; frequent and recent ones come before
        others."""
        self.settle()
        text = text[(text >= 0) & (text < LARGEST_VOCABULARY)]
        if len(text) < 2:
            return
        self.reserve(int(text.max()) + 1)
        owners, fresh = _ranked_successors(text, self.k)
        self._table[owners] = _in_front(fresh, self._table[owners])

    def reserve(self, vocab: int) -> None:
        """Allocate rows for at least `vocab` tokens."""
        vocab = min(vocab, LARGEST_VOCABULARY)
        if vocab > self.vocab_size:
            grown = np.full((vocab + 1, self.k), -1, dtype=np.int32)
            grown[: self.vocab_size] = self._table[:-1]
            self._table = grown


def _ranked_successors(text: IntArray, k: int) -> tuple[IntArray, NDArray[np.int32]]:
    """Return the tokens that have a successor in `text`, and `[tokens, k]` their successors, padded
    with -1.
    """
    pairs = (text[:-1] << 32 | text[1:])[::-1]  # newest first
    kinds, newest, counts = np.unique(pairs, return_index=True, return_counts=True)
    owner = kinds >> 32
    order = np.lexsort((newest, -counts, owner))
    owner, successor = owner[order], (kinds & 0xFFFFFFFF)[order]
    owners, first, sizes = np.unique(owner, return_index=True, return_counts=True)
    rank = np.arange(len(owner)) - np.repeat(first, sizes)
    row = np.repeat(np.arange(len(owners)), sizes)
    table = np.full((len(owners), k), -1, dtype=np.int32)
    kept = rank < k
    table[row[kept], rank[kept]] = successor[kept]
    return owners, table


def _in_front(fresh: NDArray[np.int32], old: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the rows of `fresh`, followed by the other entries of `old`, k in total, -1 last."""
    known = (old[:, :, None] == fresh[:, None, :]).any(-1)
    both = np.concatenate((fresh, np.where(known, -1, old)), axis=1)
    order = np.argsort(both < 0, axis=1, kind="stable")[:, : fresh.shape[1]]
    return np.take_along_axis(both, order, axis=1)
