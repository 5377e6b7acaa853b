"""Keys and values of one text, in tensors that grow in steps and are copied on write."""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.tree import visible_rows
from outrider.core.types import IntArray, as_ids
from outrider.models.caches.bookkeeping import CacheBook, Feed, Run
from outrider.protocols import Segment

_FIRST_CAPACITY = 128
_LARGE = 4096
"""From this number of slots on, storage grows by a quarter instead of doubling."""
_SPARE = 16
"""Spare slots for an answer: one for this many slots of a known text, plus this many slots."""
_BLOCK = 256
"""Number of rows moved at once; bounds the memory of temporary copies."""


SCALED = 32
"""Numbers of a head that share a float32 scale, in a cache of 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheLayout:
    """The shape of one model's caches. Each model has its own layout, even if shapes are equal.

    Attributes:
        dtype: `torch.int8` for 8 bits with scales, which only the compiled runner has.
        kept: numbers of the hidden states that are stored beside keys and values, in the order of
            storage.
        hidden: size of one hidden state.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    dtype: torch.dtype
    device: torch.device
    kept: tuple[int, ...] = ()
    hidden: int = 0

    @property
    def groups(self) -> int:
        """Number of scales of one head of one token; 0 if the dtype has none."""
        return -(-self.head_dim // SCALED) if self.dtype == torch.int8 else 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token, with their scales, and of its states."""
        head = self.head_dim * self.dtype.itemsize + self.groups * torch.float32.itemsize
        states = len(self.kept) * self.hidden * torch.float32.itemsize
        return 2 * self.num_layers * self.num_kv_heads * head + states

    def capacity_for(self, slots: int, capacity: int) -> int:
        """Return the next capacity: at most the context length, except for wide trees."""
        step = 2 * capacity if capacity < _LARGE else capacity + capacity // 4
        return max(slots, min(max(step, _FIRST_CAPACITY), self.context_length))

    def with_spare(self, slots: int) -> int:
        """Return the slots for a text of `slots` tokens and for some tokens after it."""
        return max(slots, min(slots + slots // _SPARE + _SPARE, self.context_length))


class Storage:
    """Keys and values, `[layers, kv_heads, capacity, head_dim]`, and the caches that read them.

    Attributes:
        states: `[capacity, kept, hidden]` float32, the hidden states that the layout keeps.
    """

    def __init__(self, layout: CacheLayout, capacity: int) -> None:
        shape = (layout.num_layers, layout.num_kv_heads, capacity, layout.head_dim)
        self.keys = torch.empty(shape, dtype=layout.dtype, device=layout.device)
        self.values = torch.empty(shape, dtype=layout.dtype, device=layout.device)
        kept = (capacity, len(layout.kept), layout.hidden if layout.kept else 0)
        self.states = torch.empty(kept, device=layout.device)
        self.readers: WeakSet[CacheBook] = WeakSet()

    @property
    def capacity(self) -> int:
        """Number of slots, used or not."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.keys.nbytes + self.values.nbytes + self.states.nbytes

    def plane(self, index: int) -> tuple[Tensor, Tensor]:
        """Return keys and values, `[slots, head_dim]`, of a plane: a pair of layer and head."""
        return self.keys.flatten(0, 1)[index], self.values.flatten(0, 1)[index]

    def float_keys(self, plane: int, count: int) -> Float[Tensor, "count head_dim"]:
        """Return the keys of the first slots of a plane in float32 or wider."""
        keys = self.plane(plane)[0][:count]
        return keys.to(torch.promote_types(keys.dtype, torch.float32))

    def gather(self, source: "Storage", starts: Sequence[int], slots: Sequence[IntArray]) -> None:
        """Copy slots of the planes of `source` to slots of these planes, from `starts` on."""
        for index, (start, own) in enumerate(zip(starts, slots, strict=True)):
            taken = torch.from_numpy(own).to(self.keys.device)
            for here, there in zip(self.plane(index), source.plane(index), strict=True):
                here[start : start + len(own)] = there[taken]

    def turn(
        self,
        plane: int,
        cos: Float[Tensor, "slots head_dim"],
        sin: Float[Tensor, "slots head_dim"],
    ) -> None:
        """Rotate the keys of the first slots of a plane; the sine is signed as in `rope.rotate`."""
        keys = self.plane(plane)[0][: len(cos)]
        wide = self.float_keys(plane, len(cos))
        keys.copy_(wide * cos + wide.roll(wide.shape[1] // 2, dims=1) * sin)

    def first(
        self, count: int
    ) -> tuple[
        Float[Tensor, "layers kv_heads count head_dim"],
        Float[Tensor, "layers kv_heads count head_dim"],
    ]:
        """Return the keys and values of the first `count` slots."""
        return self.keys[:, :, :count], self.values[:, :, :count]

    def copy_rows(self, source: "Storage", count: int) -> None:
        """Copy the first `count` slots of `source`."""
        self.keys[:, :, :count] = source.keys[:, :, :count]
        self.values[:, :, :count] = source.values[:, :, :count]
        self.keep_states(0, source.states[:count])

    def move_run(self, source: "Storage", run: Run) -> None:
        """Copy the rows of `run` in blocks; `source` may be this storage."""
        firsts = range(0, len(run), _BLOCK)
        for first in firsts if run.start < run.source else reversed(firsts):
            count = min(_BLOCK, len(run) - first)
            old = slice(run.source + first, run.source + first + count)
            new = slice(run.start + first, run.start + first + count)
            self.keys[:, :, new] = source.keys[:, :, old].clone()  # source and target can overlap
            self.values[:, :, new] = source.values[:, :, old].clone()
            self.keep_states(new.start, source.states[old].clone())

    def move_rows(self, source: "Storage", slots: Sequence[int], start: int) -> None:
        """Copy `slots` of `source` to `start`, `start + 1`, ..."""
        index = torch.tensor(slots, device=self.keys.device)
        self.keys[:, :, start : start + len(slots)] = source.keys[:, :, index]
        self.values[:, :, start : start + len(slots)] = source.values[:, :, index]
        self.keep_states(start, source.states[index])

    def keep_states(self, start: int, states: Float[Tensor, "rows kept hidden"]) -> None:
        """Write hidden states from slot `start` on, if any are kept."""
        if states.numel():
            self.states[start : start + len(states)] = states


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Queries that one forward writes.

    Attributes:
        rows: `[n]` which rows of the feed.
        queries: where they are written, multiplied by the factor of the scores; float32 or wider.
    """

    rows: IntArray
    queries: Float[Tensor, "rows layers heads head_dim"]


class DecoderCache(CacheBook):
    """The cache of `Decoder`. Call `reserve` before any write to `storage`."""

    def __init__(self, layout: CacheLayout, storage: Storage | None = None) -> None:
        super().__init__(layout.context_length)
        self.layout = layout
        self.storage = self._make(layout, 0) if storage is None else storage
        self.storage.readers.add(self)

    _replayed: Feed | None = None
    asked: Asked | None = None
    """Queries that the planned forward writes for a policy."""

    @property
    def rows(self) -> int:
        """Number of rows, speculative ones included."""
        return len(self._text) + len(self._tokens) if self._fed else self._length

    @property
    def is_chain(self) -> bool:
        """Whether the speculative rows follow each other."""
        return self._is_chain

    def replay(self, start: int, stop: int, state: int, take: IntArray) -> None:
        """Make the next forward continue with rows that are in the cache: they enter the first
        layer of that model, a `segment`, as their stored hidden state, in place of new tokens.

        Each row attends to the same slots as when it was first read. Keys and values of the layers
        are written beside those of the layers before; the text and the rows stay as they are.

        Args:
            start: slot of the first of these rows.
            stop: slot after the last one.
            state: number of the stored state that they enter with.
            take: slots of the rows whose results are wanted.

        Raises:
            IndexError: some of the rows are not in the cache.
        """
        if not 0 <= start < stop <= self.rows:
            raise IndexError(f"rows {start} to {stop} of {self.rows} rows")
        self.reserve(self.rows, self.rows + 1)  # rows further on stay, where storage is shared too
        base = len(self._text)
        tree = None
        if not self._is_chain and stop > base:
            tree = visible_rows(as_ids(self._parents[: stop - base]), start - base)
        self._replayed = Feed(
            tokens=as_ids([*self._text, *self._tokens][start:stop]),
            positions=self.slot_positions(stop)[start:],
            start=start,
            base=base,
            tree=tree,
            take=take - start,
            embeddings=self.storage.states[start:stop, self.layout.kept.index(state)],
        )

    def feed(self, segment: Segment, want: IntArray) -> Feed:
        """Plan a forward over `segment`, or over the rows of `replay`."""
        plan, self._replayed = self._replayed, None
        return super().feed(segment, want) if plan is None else plan

    @property
    def keys(self) -> Float[Tensor, "layers kv_heads length head_dim"]:
        """Keys of the committed rows, with rotary embeddings applied."""
        return self.storage.first(self.length)[0]

    @property
    def values(self) -> Float[Tensor, "layers kv_heads length head_dim"]:
        """Values of the committed rows."""
        return self.storage.first(self.length)[1]

    @property
    def capacity(self) -> int:
        """Number of allocated slots, shared ones included."""
        return self.storage.capacity

    def _make(self, layout: CacheLayout, capacity: int) -> Storage:
        """Allocate unshared storage for `capacity` rows."""
        return Storage(layout, capacity)

    def reserve(self, start: int, end: int) -> None:
        """Make `storage` exclusive to this cache, with space for `start .. end`; keep other
        slots.
        """
        old = self.storage
        if start != end and (end > old.capacity or len(old.readers) > 1):
            self._renew(start, end)

    def expect(self, slots: int) -> None:
        """Allocate space for a text of `slots` tokens at once."""
        if slots > self.storage.capacity:
            self._renew(self.length, self._with_spare(slots))

    def _with_spare(self, slots: int) -> int:
        return self.layout.with_spare(slots)

    def _renew(self, start: int, end: int) -> None:
        """Move to exclusive storage, large enough and no smaller than before."""
        capacity = self.storage.capacity
        kept = [Run(0, min(start, capacity), 0)]
        if end > capacity:
            capacity = self.layout.capacity_for(end, capacity)
        self._exchange(kept, capacity)

    @torch.inference_mode()
    def _exchange(self, runs: Sequence[Run], capacity: int) -> None:
        """Move to exclusive storage that holds the given rows."""
        old = self.storage
        self.storage = self._make(self.layout, capacity)
        for run in runs:
            if run.is_front:
                self.storage.copy_rows(old, run.stop)
            else:
                self.storage.move_run(old, run)
        self.storage.readers.add(self)
        old.readers.discard(self)

    @torch.inference_mode()
    def _lay_out(self, kept: Sequence[Run], slots: int) -> None:
        storage = self.storage
        if slots > storage.capacity or len(storage.readers) > 1:
            self._exchange(kept, self.layout.capacity_for(self._with_spare(slots), 0))
            return
        for run in kept:  # rows that move down never overwrite a row that has yet to move
            if run.start < run.source:
                storage.move_run(storage, run)
        for run in reversed(kept):  # nor do rows that then move up, from the last one on
            if run.start > run.source:
                storage.move_run(storage, run)

    @torch.inference_mode()
    def _move(self, slots: Sequence[int], start: int) -> None:
        old = self.storage
        self.reserve(start, start + len(slots))
        self.storage.move_rows(old, slots, start)

    def _share(self) -> "DecoderCache":
        return type(self)(self.layout, self.storage)
