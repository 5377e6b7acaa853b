"""Keys and values in the layout of the compiled kernels."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.kernels import library
from outrider.kernels.layout import CacheLayout as CachePointers
from outrider.models.caches.bookkeeping import Run
from outrider.models.caches.kv_cache import CacheLayout, DecoderCache, Storage

SEQUENCES = 16
"""Number of keys whose scores the kernels compute side by side."""
_BLOCK = 64
"""Capacities are multiples of this number of slots."""


class NativeStorage(Storage):
    """Keys `[layers, kv_heads, capacity / 16, head_dim, 16]`; values as in `Storage`."""

    def __init__(self, layout: CacheLayout, capacity: int) -> None:
        capacity = -(-capacity // _BLOCK) * _BLOCK
        super().__init__(layout, capacity)
        shape = (layout.num_layers, layout.num_kv_heads, -1, layout.head_dim, SEQUENCES)
        self.keys = self.keys.view(shape)
        self.pointers = CachePointers(self.keys.data_ptr(), self.values.data_ptr(), capacity)

    @property
    def capacity(self) -> int:
        """Number of slots, used or not."""
        return self.values.shape[2]

    def first(
        self, count: int
    ) -> tuple[
        Float[Tensor, "layers kv_heads count head_dim"],
        Float[Tensor, "layers kv_heads count head_dim"],
    ]:
        """Return the keys and values of the first `count` slots; the keys are a copy."""
        blocks = -(-count // SEQUENCES)
        keys = self.keys[:, :, :blocks].transpose(3, 4).flatten(2, 3)
        return keys[:, :, :count], self.values[:, :, :count]

    def copy_rows(self, source: Storage, count: int) -> None:
        """Copy the first `count` slots of `source`."""
        blocks = -(-count // SEQUENCES)
        self.keys[:, :, :blocks] = source.keys[:, :, :blocks]
        self.values[:, :, :count] = source.values[:, :, :count]

    def move_run(self, source: Storage, run: Run) -> None:
        """Copy the rows of `run` without extra memory; `source` may be this storage."""
        assert isinstance(source, NativeStorage)
        layers, heads, _, head_dim = self.values.shape
        loaded: Any = library()
        loaded.outrider_move(
            ctypes.byref(self.pointers),
            ctypes.byref(source.pointers),
            layers * heads,
            head_dim,
            run.start,
            run.source,
            len(run),
        )

    def move_rows(self, source: Storage, slots: Sequence[int], start: int) -> None:
        """Copy `slots` of `source`, ascending, to `start`, `start + 1`, ..."""
        old, index = torch.tensor(slots), torch.arange(start, start + len(slots))
        moved = source.keys[:, :, old // SEQUENCES, :, old % SEQUENCES].clone()
        self.keys[:, :, index // SEQUENCES, :, index % SEQUENCES] = moved
        self.values[:, :, start : start + len(slots)] = source.values[:, :, old]


class NativeCache(DecoderCache):
    """The cache of `NativeDecoder`."""

    storage: NativeStorage

    def _make(self, layout: CacheLayout, capacity: int) -> NativeStorage:
        return NativeStorage(layout, capacity)
