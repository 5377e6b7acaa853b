"""Queries of rows, kept from one point to the next for policies that weigh keys by them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.kv_cache import Asked

Queries = Float[Tensor, "_ layers heads head_dim"]


@dataclass(slots=True)
class QueryLog:
    """Queries since the last point. Those of drafted rows count when the rows are committed.

    Attributes:
        known: rows of the text, and their queries, in the order of the text.
        drafted: speculative rows (numbers since the last commit) and their queries.
    """

    known: list[tuple[IntArray, Queries]] = field(default_factory=list)
    drafted: list[tuple[IntArray, Queries]] = field(default_factory=list)

    def note(self, asked: Asked, rows: IntArray, first_drafted: int) -> None:
        """Record what a forward writes.

        Args:
            asked: the queries.
            rows: for each asked row, its number in the text, or its speculative number.
            first_drafted: the first asked row that is speculative.
        """
        if first_drafted:
            self.known.append((rows[:first_drafted], asked.queries[:first_drafted]))
        if first_drafted < len(rows):
            self.drafted.append((rows[first_drafted:], asked.queries[first_drafted:]))

    def forget_last(self, drafted: int) -> None:
        """Drop speculative rows from number `drafted` on, which no forward has read."""
        self.drafted = _below(self.drafted, drafted)

    def keep_drafted(self, rows: Sequence[int]) -> None:
        """Drop speculative rows but `rows`, ascending, which become rows 0, 1, ..."""
        numbers = np.array(rows, dtype=np.int64)
        kept: list[tuple[IntArray, Queries]] = []
        for own, queries in self.drafted:
            stays = np.isin(own, numbers)
            if stays.any():
                moved = np.searchsorted(numbers, own[stays])
                kept.append((moved, queries[torch.from_numpy(stays)]))
        self.drafted = kept

    def commit(self, kept: Sequence[int], start: int) -> None:
        """Take over speculative rows `kept`, which become rows `start`, `start + 1`, ... of the
        text; drop the others."""
        place = {row: start + i for i, row in enumerate(kept)}
        found = [
            (place[int(row)], own[i])
            for rows, own in self.drafted
            for i, row in enumerate(rows)
            if int(row) in place
        ]
        self.drafted = []
        if found:
            found.sort(key=lambda pair: pair[0])
            rows = np.array([row for row, _ in found])
            self.known.append((rows, torch.stack([queries for _, queries in found])))

    def cut(self, rows: int) -> None:
        """Drop what belongs to rows from `rows` on, and all speculative rows."""
        self.known, self.drafted = _below(self.known, rows), []

    def copy(self) -> "QueryLog":
        """Return an independent copy; tensors are shared and never written again."""
        return replace(self, known=list(self.known), drafted=list(self.drafted))

    @property
    def nbytes(self) -> int:
        """Bytes of all queries."""
        return sum(queries.nbytes for _, queries in (*self.known, *self.drafted))

    @property
    def rows(self) -> IntArray:
        """Rows of the text whose queries are known, ascending."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(rows for rows, _ in self.known)])

    def of_layer(self, layer: int, empty: Queries) -> Float[Tensor, "rows heads head_dim"]:
        """Return the queries of one layer; `empty` gives the shape without rows."""
        return torch.cat([empty[:, layer], *(queries[:, layer] for _, queries in self.known)])


def _below(parts: list[tuple[IntArray, Queries]], end: int) -> list[tuple[IntArray, Queries]]:
    """Return the rows before `end`; the rows of each part ascend."""
    if all(rows[-1] < end for rows, _ in parts):
        return parts
    cut = [(rows[rows < end], queries[: int((rows < end).sum())]) for rows, queries in parts]
    return [part for part in cut if len(part[0])]
