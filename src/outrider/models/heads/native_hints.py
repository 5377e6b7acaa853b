"""Hints in arrays that the kernels read and write (`kernels/csrc/hints.h`)."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import IntArray
from outrider.kernels import library
from outrider.kernels.layout import HintTable

_FIRST_PLACES = 256


class NativeHints:
    """`Hints` in arrays that the kernels read and write."""

    def __init__(self, table: NDArray[np.int32]) -> None:
        self.table = table
        self.layout = HintTable()
        self._last = (-1, -1)
        self._allocate(_FIRST_PLACES)

    def _allocate(self, places: int) -> None:
        self._keys = np.zeros(places, dtype=np.uint64)
        self._values = np.zeros(places, dtype=np.int32)
        self.layout.keys, self.layout.values = self._keys.ctypes.data, self._values.ctypes.data
        self.layout.mask, self.layout.used = places - 1, 0
        self.layout.successors = self.table.ctypes.data

    def extend(
        self, tokens: IntArray, before: Sequence[int]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Append tokens of the text; return the hint after each of them, and its level.

        Args:
            tokens: the next tokens.
            before: all tokens before them, for a table that has to grow.
        """
        if 2 * (self.layout.used + 2 * len(tokens)) > len(self._keys):
            places = len(self._keys)
            while 4 * (self.layout.used + 2 * len(tokens)) > places:
                places *= 2
            self._allocate(places)
            self._last = (-1, -1)
            self._add(np.asarray(before, dtype=np.int32), None, None)
        found, levels = np.empty((2, len(tokens)), dtype=np.int32)
        self._add(tokens.astype(np.int32), found, levels)
        return found, levels

    def _add(
        self,
        tokens: NDArray[np.int32],
        found: NDArray[np.int32] | None,
        levels: NDArray[np.int32] | None,
    ) -> None:
        loaded: Any = library()
        loaded.outrider_hints_add(
            ctypes.byref(self.layout),
            *self._last,
            tokens.ctypes.data,
            len(tokens),
            None if found is None else found.ctypes.data,
            None if levels is None else levels.ctypes.data,
        )
        last = [*self._last, *tokens[-2:].tolist()][-2:]
        self._last = last[0], last[1]

    def find(self, before: int, token: int) -> tuple[int, int]:
        """Return the hint for what follows `token`, which follows `before`, and its level."""
        loaded: Any = library()
        level = ctypes.c_int32()
        hint = loaded.outrider_hint(
            ctypes.byref(self.layout), before, token, ctypes.addressof(level)
        )
        return hint, level.value
