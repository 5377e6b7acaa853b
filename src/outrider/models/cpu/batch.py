"""Writes the rows of one forward into the arrays that the compiled kernels read."""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.types import NO_IDS
from outrider.kernels.layout import Batch, HeadRows
from outrider.kernels.layout import CacheLayout as CachePointers
from outrider.kernels.layout import Places as PlacePointers
from outrider.models.caches.bookkeeping import Feed
from outrider.models.cpu.cache import NativeCache
from outrider.models.cpu.states import States

_ROWS = ("tokens", "positions", "slots", "cache", "base")


class RowArrays:
    """Arrays for up to `capacity` rows, and the structure that points to them.

    They are reused: allocating them costs more than a forward of a small model.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.batch = Batch()
        self._arrays = {name: np.zeros(capacity, dtype=np.int32) for name in (*_ROWS, "want")}
        self._starts = np.zeros(capacity + 1, dtype=np.int32)
        for name, array in self._arrays.items():
            setattr(self.batch, name, array.ctypes.data)
        self.batch.extra_start = self._starts.ctypes.data
        self._kept: list[object] = []

    def fill(self, feeds: Sequence[Feed], caches: Sequence[NativeCache]) -> None:
        """Write the rows of all feeds, one feed after the other."""
        self._kept, self.batch.keep, self.batch.asked = [], None, None
        arrays, start, wanted = self._arrays, 0, 0
        extras: list[int] = []
        for i, feed in enumerate(feeds):
            count = len(feed.tokens)
            rows = slice(start, start + count)
            arrays["tokens"][rows] = (
                feed.tokens if feed.prompts is None else np.maximum(feed.tokens, 0)
            )
            arrays["positions"][rows] = feed.positions
            arrays["slots"][rows] = np.arange(feed.start, feed.end)
            arrays["cache"][rows] = i
            arrays["base"][rows] = np.arange(feed.start + 1, feed.end + 1)
            self._starts[start + 1 : start + count + 1] = len(extras)
            if feed.tree is not None:
                self._fill_tree(feed, start, extras)
            arrays["want"][wanted : wanted + len(feed.take)] = feed.take + start
            start += count
            wanted += len(feed.take)
        self.batch.rows, self.batch.wanted = start, wanted
        self._point(feeds, caches, extras)
        if any(cache.asked is not None for cache in caches):
            self._write_queries(feeds, caches)

    def turn_by(
        self, cos: Float[Tensor, "rows 1 head_dim"], sin: Float[Tensor, "rows 1 head_dim"]
    ) -> None:
        """Use a separate row of these tables for each filled row; later rows may follow.

        Positions then are indices of rows, so no other part of the forward may use them: layers
        with windows are not supported.
        """
        count = int(self.batch.rows)
        self._arrays["positions"][:count] = np.arange(count)
        self.batch.cos = self._keep(cos, cos.data_ptr())
        self.batch.sin = self._keep(sin, sin.data_ptr())

    def fill_states(self, states: Float[Tensor, "rows hidden"]) -> None:
        """Fill rows without tokens: `states` (float32, contiguous) are the first layer's input."""
        count, row = len(states), states.shape[1] * 4
        self._kept, self.batch.keep, self.batch.asked = [], None, None
        for array in self._arrays.values():
            array[:count] = 0
        self._arrays["want"][:count] = np.arange(count)
        self._starts[: count + 1] = 0
        self.batch.rows = self.batch.wanted = count
        addresses = (states.data_ptr() + row * np.arange(count)).astype(np.uint64)
        self._keep(states, 0)
        self.batch.given = self._keep(addresses, addresses.ctypes.data)
        self.batch.places = None

    def keep_states(self, states: States | None) -> None:
        """Make the forward write hidden states to `states`."""
        self.batch.states = None
        if states is not None:
            self.batch.states = self._keep(states, states.kept.data_ptr())
            self.batch.state_at = states.places.ctypes.data

    def keep_rows(
        self, feeds: Sequence[Feed], caches: Sequence[NativeCache], places: NDArray[np.int32] | None
    ) -> None:
        """Make the forward write hidden states of all rows to the storage of their caches.

        Args:
            feeds: the rows.
            caches: the cache of each feed.
            places: `[layers that run + 2]`; see `kept_places`. None: no states are kept.
        """
        if places is None:
            return
        addresses = [
            cache.storage.states.data_ptr() + _row_bytes(cache) * np.arange(feed.start, feed.end)
            for feed, cache in zip(feeds, caches, strict=True)
        ]
        rows = np.concatenate(addresses).astype(np.uint64)
        self.batch.keep = self._keep(rows, rows.ctypes.data)
        self.batch.keep_at = self._keep(places, places.ctypes.data)

    def point_head(
        self,
        read: Tensor,
        *,
        continued: bool,
        hints: NDArray[np.int32],
        levels: NDArray[np.int32],
    ) -> HeadRows:
        """Describe what the filled rows of a head read beside their tokens.

        Args:
            read: `[rows, ...]` float32 and contiguous; the target's states, or outputs of the rows
                before.
            continued: whether these are outputs.
            hints: `[rows]` the hint of each row.
            levels: `[rows]` their levels.
        """
        row = read.stride(0) * read.element_size()
        addresses = (read.data_ptr() + row * np.arange(len(read))).astype(np.uint64)
        self._keep(read, 0)
        return HeadRows(
            self._keep(addresses, addresses.ctypes.data),
            continued,
            self._keep(hints, hints.ctypes.data),
            self._keep(levels, levels.ctypes.data),
        )

    def _fill_tree(self, feed: Feed, start: int, extras: list[int]) -> None:
        """Fill the visibility of rows: draft rows attend to the text and to their ancestors.

        Unread rows of the text attend to the text before them.
        """
        assert feed.tree is not None
        for i, seen in enumerate(feed.tree):
            if feed.start + i >= feed.base:
                extras.extend((np.flatnonzero(seen) + feed.base).tolist())
                self._arrays["base"][start + i] = feed.base
            self._starts[start + i + 1] = len(extras)

    def _point(
        self, feeds: Sequence[Feed], caches: Sequence[NativeCache], extras: list[int]
    ) -> None:
        batch = self.batch
        if len(caches) == 1:
            batch.caches = ctypes.addressof(caches[0].storage.pointers)
        else:
            pointers = (CachePointers * len(caches))(*(c.storage.pointers for c in caches))
            batch.caches = self._keep(pointers, ctypes.addressof(pointers))
        batch.places = None
        if any(cache.places.shift and cache.places.axes is None for cache in caches):
            batch.places = self._places(caches)
        path = np.asarray(extras or [0], dtype=np.int32)
        batch.extra = self._keep(path, path.ctypes.data)
        batch.given = None
        if any(f.embeddings is not None or f.prompts is not None for f in feeds):
            batch.given = self._embeddings(feeds)

    def _write_queries(self, feeds: Sequence[Feed], caches: Sequence[NativeCache]) -> None:
        """Make the forward write the queries that policies of caches ask for."""
        addresses = np.zeros(int(self.batch.rows), dtype=np.uint64)
        start = 0
        for feed, cache in zip(feeds, caches, strict=True):
            if cache.asked is not None:
                queries = cache.asked.queries
                row = queries.stride(0) * queries.element_size()
                addresses[start + cache.asked.rows] = queries.data_ptr() + row * np.arange(
                    len(queries)
                )
                self._keep(queries, 0)
            start += len(feed.tokens)
        self.batch.asked = self._keep(addresses, addresses.ctypes.data)

    def _places(self, caches: Sequence[NativeCache]) -> int:
        """Return the address of an array with the irregular positions of each cache."""
        pointers = (PlacePointers * len(caches))()
        for pointer, cache in zip(pointers, caches, strict=True):
            given = cache.places.given.astype(np.int32)
            pointer.given = self._keep(given, given.ctypes.data)
            pointer.count, pointer.shift = len(given), cache.places.shift
        return self._keep(pointers, ctypes.addressof(pointers))

    def _embeddings(self, feeds: Sequence[Feed]) -> int:
        """Return the address of an array with one address a row: of its embedding, or 0."""
        addresses = np.zeros(int(self.batch.rows), dtype=np.uint64)
        start = 0
        for feed in feeds:
            if feed.embeddings is not None:
                given: Tensor = feed.embeddings.to("cpu", torch.float32).contiguous()
                row = given.shape[1] * 4
                self._keep(given, 0)
                first = given.data_ptr()
                addresses[start : start + len(given)] = first + row * np.arange(len(given))
            if feed.prompts is not None:
                table: Tensor = feed.prompts.to("cpu", torch.float32).contiguous()
                rows = np.flatnonzero(feed.tokens < 0)
                places = (-1 - feed.tokens[rows]) * table.shape[1] * 4
                addresses[start + rows] = self._keep(table, table.data_ptr()) + places
            start += len(feed.tokens)
        return self._keep(addresses, addresses.ctypes.data)

    def _keep(self, thing: object, address: int) -> int:
        """Return `address` and keep `thing`, its owner, alive until the next `fill`."""
        self._kept.append(thing)
        return address


def _row_bytes(cache: NativeCache) -> int:
    """Return the bytes between the hidden states of two slots."""
    states = cache.storage.states
    return states.stride(0) * states.element_size()


def following(feeds: Sequence[Feed], count: int) -> list[Feed]:
    """Return `count` feeds of one row each, placed after the last row of all feeds."""
    if not count:
        return []
    last = feeds[-1]
    places = np.arange(count) + last.positions[-1] + 1
    return [Feed(np.zeros_like(places), places, last.end, last.base, None, NO_IDS)]
