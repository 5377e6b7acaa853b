"""Where the rows of a compressed cache lie: each layer and head has a plane of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import IntArray

_BLOCK = 64
"""Planes begin at multiples of this number of slots, which kernels read as whole blocks."""


@dataclass(frozen=True, eq=False)
class Planes:
    """The rows that each plane has kept of the first `end` rows of a text.

    Rows from `end` on follow in every plane: row r lies in slot `r + shift[plane]` of the plane.

    Attributes:
        rows: for each plane the kept rows before `end`, ascending.
        end: number of rows of the text, kept or dropped, which the choice was made of.
    """

    rows: tuple[IntArray, ...]
    end: int

    @cached_property
    def counts(self) -> IntArray:
        """`[planes]` number of kept rows."""
        return np.array([len(rows) for rows in self.rows], dtype=np.int64)

    @cached_property
    def shift(self) -> NDArray[np.int32]:
        """`[planes]` what is added to a row from `end` on for its slot."""
        return (self.counts - self.end).astype(np.int32)

    def sizes(self, capacity: int) -> IntArray:
        """Return `[planes]` slots of each plane for a text of `capacity` rows."""
        return -(-(capacity + self.shift.astype(np.int64)) // _BLOCK) * _BLOCK

    def holds(self, plane: int, length: int) -> IntArray:
        """Return the rows that a plane holds of a text of `length` rows, ascending."""
        return np.concatenate((self.rows[plane], np.arange(self.end, max(length, self.end))))

    def slots(self, plane: int, rows: IntArray) -> IntArray:
        """Return the slots of rows in their plane. Raises `KeyError` for a dropped row."""
        own = self.rows[plane]
        place = np.searchsorted(own, rows)
        late = rows >= self.end
        lost = ~late & (own[np.minimum(place, len(own) - 1)] != rows if len(own) else ~late)
        if lost.any():
            raise KeyError(f"plane {plane} has dropped row {int(rows[lost.argmax()])}")
        return np.where(late, rows + int(self.shift[plane]), place)


def whole_planes(count: int) -> Planes:
    """Return `count` planes that have dropped nothing."""
    return Planes(tuple(np.zeros(0, dtype=np.int64) for _ in range(count)), 0)


def firsts(sizes: IntArray) -> IntArray:
    """Return where each plane begins if one follows the other."""
    return np.concatenate(([0], np.cumsum(sizes)[:-1]))


def same_rows(planes: Sequence[IntArray]) -> bool:
    """Whether all planes have the same rows."""
    return all(len(p) == len(planes[0]) and (p == planes[0]).all() for p in planes[1:])
