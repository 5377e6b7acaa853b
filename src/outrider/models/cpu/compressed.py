"""Compressed caches (`models/caches/eviction`) in the layout of the compiled kernels."""

from collections.abc import Sequence
from typing import NoReturn
from weakref import WeakSet

import torch
from torch import Tensor

from outrider.kernels.layout import CacheLayout as CachePointers
from outrider.models.caches.bookkeeping import CacheBook
from outrider.models.caches.eviction.cache import CompressedCache
from outrider.models.caches.eviction.planes import Planes, firsts
from outrider.models.caches.eviction.storage import runs_of
from outrider.models.caches.kv_cache import CacheLayout, Storage
from outrider.models.cpu.cache import KINDS, SEQUENCES, NativeCache, NativeStorage


class NativeCompressedStorage(NativeStorage):
    """Keys `[slots / 16, head_dim, 16]` and values `[slots, head_dim]` of all planes, one plane
    after the other; scales likewise.

    Attributes:
        planes: which rows each plane holds.
        states: `[capacity, kept, hidden]` hidden states of all rows, dropped ones included.
    """

    def __init__(self, layout: CacheLayout, planes: Planes, capacity: int) -> None:
        sizes = planes.sizes(capacity)
        self.planes, self.num_planes = planes, len(sizes)
        self._sizes, self._begins = sizes.tolist(), firsts(sizes)
        self._capacity = int((sizes - planes.shift).min())
        slots, head_dim, groups = int(sizes.sum()), layout.head_dim, layout.groups
        blocks = slots // SEQUENCES
        # Zeros, as in `NativeStorage`: kernels read whole blocks.
        self.keys = torch.zeros(blocks, head_dim, SEQUENCES, dtype=layout.dtype)
        self.values = torch.empty(slots, head_dim, dtype=layout.dtype)
        self.key_scales = torch.zeros(blocks, groups, SEQUENCES)
        self.value_scales = torch.zeros(slots, groups)
        kept = (self._capacity, len(layout.kept), layout.hidden if layout.kept else 0)
        self.states = torch.empty(kept)
        self.readers: WeakSet[CacheBook] = WeakSet()
        self._shift = planes.shift.copy()
        self.pointers = CachePointers(
            self.keys.data_ptr(),
            self.values.data_ptr(),
            self.key_scales.data_ptr(),
            self.value_scales.data_ptr(),
            self._capacity,
            KINDS[layout.dtype],
            self._begins.ctypes.data,
            self._shift.ctypes.data,
        )

    @property
    def capacity(self) -> int:
        """Number of rows of the text for which every plane has slots."""
        return self._capacity

    def plane(self, index: int) -> NoReturn:
        """Refused: keys lie in blocks; see `blocks`."""
        raise RuntimeError("the kernels store keys in blocks of 16 slots")

    def first(self, count: int) -> NoReturn:
        """Refused: planes hold different rows."""
        raise RuntimeError("a compressed cache holds other rows in each layer and head")

    def blocks(self, plane: int) -> tuple[Tensor, Tensor]:
        """Return the keys `[blocks, head_dim, 16]` and their scales `[blocks, groups, 16]`."""
        begin = int(self._begins[plane])
        own = slice(begin // SEQUENCES, (begin + self._sizes[plane]) // SEQUENCES)
        return self.keys[own], self.key_scales[own]

    def copy_rows(self, source: Storage, count: int) -> None:
        """Copy the first `count` rows of the text from a storage with the same planes."""
        assert isinstance(source, NativeCompressedStorage)
        for plane, shift in enumerate(self.planes.shift.tolist()):
            held = count + shift
            for own, other in zip(self.blocks(plane), source.blocks(plane), strict=True):
                own[: -(-held // SEQUENCES)] = other[: -(-held // SEQUENCES)]
            here, there = int(self._begins[plane]), int(source._begins[plane])
            self.values[here : here + held] = source.values[there : there + held]
            self.value_scales[here : here + held] = source.value_scales[there : there + held]
        self.keep_states(0, source.states[:count])

    def move_rows(self, source: Storage, slots: Sequence[int], start: int) -> None:
        """Copy rows `slots` of the text, ascending, to `start`, `start + 1`, ..."""
        for run in runs_of(slots, start):
            self.move_run(source, run)


class NativeCompressedCache(CompressedCache, NativeCache):
    """The cache of `NativeDecoder` under a policy."""

    def _make(self, layout: CacheLayout, capacity: int) -> NativeStorage:
        if not self.planes.end:
            return NativeStorage(layout, capacity)
        return NativeCompressedStorage(layout, self.planes, capacity)
