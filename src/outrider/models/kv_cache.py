"""Keys and values of one text, in tensors that grow by doubling and are shared until written."""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.models.cache import CacheBook
from outrider.tree import depths
from outrider.types import IntArray, as_ids

_FIRST_CAPACITY = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheLayout:
    """The shape of one model's caches. Two models never share a layout, however alike."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values one token takes."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    def capacity_for(self, slots: int, capacity: int) -> int:
        """Double, but not beyond the context; wide trees alone may need more slots than that."""
        return max(slots, min(max(2 * capacity, _FIRST_CAPACITY), self.context_length))


class Storage:
    """Keys and values, `[layers, kv_heads, capacity, head_dim]`, and the caches that read them."""

    def __init__(self, layout: CacheLayout, capacity: int) -> None:
        shape = (layout.num_layers, layout.num_kv_heads, capacity, layout.head_dim)
        self.keys = torch.empty(shape, dtype=layout.dtype, device=layout.device)
        self.values = torch.empty(shape, dtype=layout.dtype, device=layout.device)
        self.readers: WeakSet[CacheBook] = WeakSet()

    @property
    def capacity(self) -> int:
        """Slots it has."""
        return self.keys.shape[2]

    def first(
        self, count: int
    ) -> tuple[
        Float[Tensor, "layers kv_heads count head_dim"],
        Float[Tensor, "layers kv_heads count head_dim"],
    ]:
        """Keys and values in the first `count` slots."""
        return self.keys[:, :, :count], self.values[:, :, :count]

    def copy_rows(self, source: "Storage", count: int) -> None:
        """Take over the first `count` slots of `source`."""
        self.keys[:, :, :count] = source.keys[:, :, :count]
        self.values[:, :, :count] = source.values[:, :, :count]

    def move_rows(self, source: "Storage", slots: Sequence[int], start: int) -> None:
        """Take over `slots` of `source` as `start`, `start + 1`, ..."""
        index = torch.tensor(slots, device=self.keys.device)
        self.keys[:, :, start : start + len(slots)] = source.keys[:, :, index]
        self.values[:, :, start : start + len(slots)] = source.values[:, :, index]


class DecoderCache(CacheBook):
    """The cache of `Decoder`. Whoever writes to `storage` calls `reserve` first."""

    def __init__(self, layout: CacheLayout, storage: Storage | None = None) -> None:
        super().__init__(layout.context_length)
        self.layout = layout
        self.storage = self._allocate(layout, 0) if storage is None else storage
        self.storage.readers.add(self)

    @property
    def keys(self) -> Float[Tensor, "layers kv_heads length head_dim"]:
        """Keys of the committed rows, already turned."""
        return self.storage.first(self.length)[0]

    @property
    def values(self) -> Float[Tensor, "layers kv_heads length head_dim"]:
        """Values of the committed rows."""
        return self.storage.first(self.length)[1]

    @property
    def capacity(self) -> int:
        """Slots allocated, shared ones included."""
        return self.storage.capacity

    def _allocate(self, layout: CacheLayout, capacity: int) -> Storage:
        return Storage(layout, capacity)

    def reserve(self, start: int, end: int) -> None:
        """Make `storage` this cache's own, with room for slots `start .. end`; others stay."""
        old = self.storage
        if start != end and (end > old.capacity or len(old.readers) > 1):
            self._renew(start, end)

    @torch.inference_mode()
    def _renew(self, start: int, end: int) -> None:
        """Move to storage of its own, large enough."""
        old = self.storage
        capacity = old.capacity
        if end > capacity:
            capacity = self.layout.capacity_for(end, capacity)
        self.storage = self._allocate(self.layout, capacity)
        self.storage.copy_rows(old, min(start, old.capacity))
        self.storage.readers.add(self)
        old.readers.discard(self)

    def slot_positions(self, end: int) -> IntArray:
        """Place in the text of the token in each of the first `end` slots."""
        text = len(self._text)
        speculative = depths(as_ids(self._parents)) + text
        return np.concatenate((np.arange(text), speculative))[:end]

    @torch.inference_mode()
    def _move(self, slots: Sequence[int], start: int) -> None:
        old = self.storage
        self.reserve(start, start + len(slots))
        self.storage.move_rows(old, slots, start)

    def _share(self) -> "DecoderCache":
        return type(self)(self.layout, self.storage)
