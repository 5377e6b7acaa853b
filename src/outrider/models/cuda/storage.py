"""Caches whose storage has one of a few capacities and is reused by later texts.

A captured program refers to its tensors by address. Therefore each storage keeps the programs
captured for it, and a storage that no text uses is passed on together with its programs.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from outrider.core.tree import ancestor_mask, depths, is_chain
from outrider.core.types import BoolArray, as_ids
from outrider.models.caches.kv_cache import CacheLayout, DecoderCache, Storage
from outrider.models.cuda.runner import Work
from outrider.models.cuda.transfer import upload

FIRST_CAPACITY = 256
_SPILL = 64
"""Step of capacities beyond the window: a wide tree at its end has more slots than places."""


def capacity_for(slots: int, context_length: int) -> int:
    """Return the smallest capacity that holds `slots`: 256, 512, ... up to the window."""
    if slots > context_length:
        return -(-slots // _SPILL) * _SPILL
    capacity = FIRST_CAPACITY
    while capacity < slots:
        capacity *= 2
    return min(capacity, context_length)


class StaticStorage(Storage):
    """Keys and values with one slot more than `capacity`, where padding rows write."""

    def __init__(self, layout: CacheLayout, capacity: int) -> None:
        super().__init__(layout, capacity + 1)
        self.programs: dict[Hashable, Work] = {}

    @property
    def capacity(self) -> int:
        """Number of slots that hold rows; the slot after them is scratch."""
        return self.keys.shape[2] - 1

    def move_rows(self, source: Storage, slots: Sequence[int], start: int) -> None:
        """Copy `slots` of `source` to `start`, `start + 1`, ..., without synchronization."""
        index = torch.empty(len(slots), dtype=torch.int64, device=self.keys.device)
        upload(index, np.asarray(slots, dtype=np.int64))
        self.keys[:, :, start : start + len(slots)] = source.keys.index_select(2, index)
        self.values[:, :, start : start + len(slots)] = source.values.index_select(2, index)
        self.keep_states(start, source.states.index_select(0, index))


class StoragePool:
    """All storages of one model, including those that no cache uses."""

    def __init__(self, layout: CacheLayout) -> None:
        self.layout = layout
        self.storages: list[StaticStorage] = []

    @torch.inference_mode()
    def take(self, slots: int) -> StaticStorage:
        """Return an unused storage with space for `slots`; its rows can hold any values."""
        capacity = capacity_for(slots, self.layout.context_length)
        for storage in self.storages:
            if storage.capacity == capacity and not storage.readers:
                return storage
        self._trim()
        self.storages.append(StaticStorage(self.layout, capacity))
        return self.storages[-1]

    def _trim(self) -> None:
        """Keep one unused storage of each capacity: the one with the most programs."""
        kept: list[StaticStorage] = []
        spare: Counter[int] = Counter()
        for storage in sorted(self.storages, key=lambda s: -len(s.programs)):
            if not storage.readers:
                spare[storage.capacity] += 1
            if storage.readers or spare[storage.capacity] == 1:
                kept.append(storage)
        self.storages = kept


@dataclass(frozen=True, slots=True)
class Frontier:
    """The place of the next row of a text, directly after the newest row.

    Attributes:
        slot: its slot in the cache.
        position: its position in the text.
        limit: all slots before this one are visible to it,
        beyond: as are these slots between `limit` and `slot`; None if there are none between.
    """

    slot: int
    position: int
    limit: int
    beyond: BoolArray | None


class StaticCache(DecoderCache):
    """The cache of `StaticDecoder`."""

    def __init__(
        self, layout: CacheLayout, pool: StoragePool, storage: StaticStorage | None = None
    ) -> None:
        super().__init__(layout, StaticStorage(layout, 0) if storage is None else storage)
        self.pool = pool

    @property
    def static_storage(self) -> StaticStorage:
        """The storage; `reserve` can replace it."""
        assert isinstance(self.storage, StaticStorage)
        return self.storage

    def _make(self, layout: CacheLayout, capacity: int) -> StaticStorage:
        return self.pool.take(capacity)

    def _with_spare(self, slots: int) -> int:
        return slots  # capacities are already rounded up

    def frontier(self) -> Frontier:
        """Return the place after the newest row; no token may be pending and unread."""
        text, parents = len(self._text), as_ids(self._parents)
        slot = text + len(parents)
        position = self.places.at(slot)
        if is_chain(parents):
            return Frontier(slot, position, slot, None)
        position += int(depths(parents)[-1]) + 1 - len(parents)
        return Frontier(slot, position, text, ancestor_mask(parents)[-1])

    def _share(self) -> "StaticCache":
        return StaticCache(self.layout, self.pool, self.static_storage)
