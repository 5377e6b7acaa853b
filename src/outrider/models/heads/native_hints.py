"""Hints in arrays that the kernels read and write (`kernels/csrc/hints.h`)."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        self, text: Sequence[int], known: int, end: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Append tokens of the text; return the hint after each of them, and its level.

        Args:
            text: the text.
            known: number of its tokens that have been appended before.
            end: number of its tokens that are known afterwards, if there are more.
        """
        fresh = np.array(text[known:end], dtype=np.int32)
        if 2 * (self.layout.used + 2 * len(fresh)) > len(self._keys):
            places = len(self._keys)
            while 4 * (self.layout.used + 2 * len(fresh)) > places:
                places *= 2
            self._allocate(places)
            self._last = (-1, -1)
            self._add(np.array(text[:known], dtype=np.int32), None, None)
        found, levels = np.empty((2, len(fresh)), dtype=np.int32)
        self._add(fresh, found, levels)
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
