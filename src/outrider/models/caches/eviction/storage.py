"""Keys and values of which each layer and head keeps other rows, one plane after the other."""

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from outrider.models.caches.bookkeeping import CacheBook, Run
from outrider.models.caches.eviction.planes import Planes, firsts
from outrider.models.caches.kv_cache import CacheLayout, Storage


class CompressedStorage(Storage):
    """Keys and values `[slots, head_dim]` of all planes.

    Attributes:
        planes: which rows each plane holds.
        states: `[capacity, kept, hidden]` hidden states of all rows, dropped ones included.
    """

    def __init__(self, layout: CacheLayout, planes: Planes, capacity: int) -> None:
        sizes = planes.sizes(capacity)
        self.planes = planes
        self.sizes, self._first = sizes.tolist(), firsts(sizes).tolist()
        self._capacity = int((sizes - planes.shift).min())
        shape = (int(sizes.sum()), layout.head_dim)
        self.keys = torch.empty(shape, dtype=layout.dtype, device=layout.device)
        self.values = torch.empty(shape, dtype=layout.dtype, device=layout.device)
        kept = (self._capacity, len(layout.kept), layout.hidden if layout.kept else 0)
        self.states = torch.empty(kept, device=layout.device)
        self.readers: WeakSet[CacheBook] = WeakSet()

    @property
    def capacity(self) -> int:
        """Number of rows of the text for which every plane has slots."""
        return self._capacity

    def plane(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of one plane, `[slots, head_dim]`."""
        own = slice(self._first[index], self._first[index] + self.sizes[index])
        return self.keys[own], self.values[own]

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Refused: planes hold different rows."""
        raise RuntimeError("a compressed cache holds other rows in each layer and head")

    def copy_rows(self, source: Storage, count: int) -> None:
        """Copy the first `count` rows of the text from a storage with the same planes."""
        for index, shift in enumerate(self.planes.shift.tolist()):
            for own, other in zip(self.plane(index), source.plane(index), strict=True):
                own[: count + shift] = other[: count + shift]
        self.keep_states(0, source.states[:count])

    def move_run(self, source: Storage, run: Run) -> None:
        """Copy the rows of `run`, which lie behind `planes.end`; `source` may be this storage."""
        for index, shift in enumerate(self.planes.shift.tolist()):
            for own, other in zip(self.plane(index), source.plane(index), strict=True):
                rows = other[run.source + shift : run.source + shift + len(run)]
                own[run.start + shift : run.start + shift + len(run)] = rows.clone()
        self.keep_states(run.start, source.states[run.source : run.source + len(run)].clone())

    def move_rows(self, source: Storage, slots: Sequence[int], start: int) -> None:
        """Copy rows `slots` of `source`, ascending, to `start`, `start + 1`, ..."""
        for run in runs_of(slots, start):
            self.move_run(source, run)


def runs_of(slots: Sequence[int], start: int) -> list[Run]:
    """Return the runs of ascending slots that move to `start`, `start + 1`, ..."""
    runs: list[Run] = []
    for i, slot in enumerate(slots):
        last = runs[-1] if runs else None
        if last is not None and last.source + len(last) == slot:
            runs[-1] = Run(last.start, last.stop + 1, last.source)
        else:
            runs.append(Run(start + i, start + i + 1, slot))
    return runs
