"""Keys and values in the layout of the compiled kernels."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.kernels import library
from outrider.kernels.layout import BFLOAT16, FLOAT32, INT8
from outrider.kernels.layout import CacheLayout as CachePointers
from outrider.models.caches.bookkeeping import Run
from outrider.models.caches.kv_cache import SCALED, CacheLayout, DecoderCache, Storage
from outrider.models.caches.narrowing import narrowed
from outrider.protocols import Cache

SEQUENCES = 16
"""Number of keys whose scores the kernels compute side by side."""
_BLOCK = 64
"""Capacities are multiples of this number of slots."""
CACHE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
"""Dtypes of keys and values, by the names that `--cache-dtype` takes."""
KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.int8: INT8}


class NativeStorage(Storage):
    """Keys `[layers, kv_heads, capacity / 16, head_dim, 16]`; values as in `Storage`.

    Attributes:
        key_scales: `[layers, kv_heads, capacity / 16, groups, 16]`, empty without scales.
        value_scales: `[layers, kv_heads, capacity, groups]`, empty without scales.
    """

    def __init__(self, layout: CacheLayout, capacity: int) -> None:
        capacity = -(-capacity // _BLOCK) * _BLOCK
        super().__init__(layout, capacity)
        planes = (layout.num_layers, layout.num_kv_heads)
        self.num_planes = layout.num_layers * layout.num_kv_heads
        blocks = (*planes, capacity // SEQUENCES)
        # Kernels read whole blocks. Zeros, since arithmetic with denormal numbers, which memory
        # that held integers is full of, takes a hundred times as long.
        self.keys = self.keys.zero_().view(*blocks, layout.head_dim, SEQUENCES)
        self.key_scales = torch.zeros(*blocks, layout.groups, SEQUENCES)
        self.value_scales = torch.zeros(*planes, capacity, layout.groups)
        self.pointers = CachePointers(
            self.keys.data_ptr(),
            self.values.data_ptr(),
            self.key_scales.data_ptr(),
            self.value_scales.data_ptr(),
            capacity,
            KINDS[layout.dtype],
        )

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
        """Return the keys and values of the first `count` slots in float32, as attention reads
        them; the keys are a copy.
        """
        blocks = -(-count // SEQUENCES)
        keys, values = self.keys[:, :, :blocks].float(), self.values[:, :, :count].float()
        if self.key_scales.numel():
            keys = keys * _spread(self.key_scales[:, :, :blocks], keys.shape[3], dim=3)
            values = values * _spread(self.value_scales[:, :, :count], values.shape[3], dim=3)
        return keys.transpose(3, 4).flatten(2, 3)[:, :, :count], values

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return super().nbytes + self.key_scales.nbytes + self.value_scales.nbytes

    def blocks(self, plane: int) -> tuple[Tensor, Tensor]:
        """Return the keys `[blocks, head_dim, 16]` and their scales `[blocks, groups, 16]`."""
        return self.keys.flatten(0, 1)[plane], self.key_scales.flatten(0, 1)[plane]

    def float_keys(self, plane: int, count: int) -> Float[Tensor, "count head_dim"]:
        """Return the keys of the first slots of a plane in float32."""
        keys, scales = (part[: -(-count // SEQUENCES)] for part in self.blocks(plane))
        wide = keys.float()
        if scales.numel():
            wide = wide * _spread(scales, keys.shape[1], dim=1)
        return wide.transpose(1, 2).flatten(0, 1)[:count]

    def gather(self, source: Storage, starts: Sequence[int], slots: Sequence[IntArray]) -> None:
        """Copy slots of the planes of `source` to slots of these planes, from `starts` on."""
        assert isinstance(source, NativeStorage)
        begins = np.array(starts, dtype=np.int32)
        rows = np.concatenate(slots).astype(np.int32)
        ends = np.cumsum([len(own) for own in slots])
        loaded: Any = library()
        loaded.outrider_gather(
            ctypes.byref(self.pointers),
            ctypes.byref(source.pointers),
            len(slots),
            self.values.shape[-1],
            begins.ctypes.data,
            rows.ctypes.data,
            ends.ctypes.data,
        )

    def turn(
        self,
        plane: int,
        cos: Float[Tensor, "slots head_dim"],
        sin: Float[Tensor, "slots head_dim"],
    ) -> None:
        """Rotate the keys of the first slots of a plane; the sine is signed as in `rope.rotate`."""
        loaded: Any = library()
        pointers = ctypes.byref(self.pointers)
        cos, sin = cos.contiguous(), sin.contiguous()
        loaded.outrider_turn(
            pointers, plane, self.values.shape[-1], len(cos), cos.data_ptr(), sin.data_ptr()
        )

    def copy_rows(self, source: Storage, count: int) -> None:
        """Copy the first `count` slots of `source`."""
        assert isinstance(source, NativeStorage)
        blocks = -(-count // SEQUENCES)
        for own, other in zip(self._blocked(), source._blocked(), strict=True):
            own[:, :, :blocks] = other[:, :, :blocks]
        for own, other in zip(self._rows(), source._rows(), strict=True):
            own[:, :, :count] = other[:, :, :count]
        self.keep_states(0, source.states[:count])

    def move_run(self, source: Storage, run: Run) -> None:
        """Copy the rows of `run` without extra memory; `source` may be this storage."""
        assert isinstance(source, NativeStorage)
        loaded: Any = library()
        loaded.outrider_move(
            ctypes.byref(self.pointers),
            ctypes.byref(source.pointers),
            self.num_planes,
            self.values.shape[-1],
            run.start,
            run.source,
            len(run),
        )
        moved = source.states[run.source : run.source + len(run)]
        self.keep_states(run.start, moved.clone())  # source and target can overlap

    def move_rows(self, source: Storage, slots: Sequence[int], start: int) -> None:
        """Copy `slots` of `source`, ascending, to `start`, `start + 1`, ..."""
        assert isinstance(source, NativeStorage)
        old, index = torch.tensor(slots), torch.arange(start, start + len(slots))
        for own, other in zip(self._blocked(), source._blocked(), strict=True):
            moved = other[:, :, old // SEQUENCES, :, old % SEQUENCES].clone()
            own[:, :, index // SEQUENCES, :, index % SEQUENCES] = moved
        for own, other in zip(self._rows(), source._rows(), strict=True):
            own[:, :, start : start + len(slots)] = other[:, :, old]
        self.keep_states(start, source.states[old])

    def _blocked(self) -> tuple[Tensor, Tensor]:
        """Return the tensors that hold 16 slots side by side."""
        return self.keys, self.key_scales

    def _rows(self) -> tuple[Tensor, Tensor]:
        """Return the tensors that hold one slot after another."""
        return self.values, self.value_scales


def _spread(scales: Float[Tensor, "..."], head_dim: int, *, dim: int) -> Float[Tensor, "..."]:
    """Repeat the scale of each group for the numbers of the group."""
    return scales.repeat_interleave(SCALED, dim=dim).narrow(dim, 0, head_dim)


class NativeCache(DecoderCache):
    """The cache of `NativeDecoder`."""

    storage: NativeStorage

    def _make(self, layout: CacheLayout, capacity: int) -> NativeStorage:
        return NativeStorage(layout, capacity)


def current(cache: Cache, version: int, name: str) -> NativeCache:
    """Return a cache of model `name`; rows that other weights than `version` computed no longer
    count. Raises `StrategyError` for a cache of another kind."""
    own = narrowed(cache, NativeCache, name)
    if own.version != version:
        own.renew(version)
    return own
