"""The buffers that a forward of static shape reads, and those it leaves its results in."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import Feed
from outrider.models.cuda.storage import Frontier, StaticCache
from outrider.models.cuda.transfer import upload
from outrider.models.llama.config import DecoderConfig

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
"""Rows of a forward; fewer are padded."""


def width_for(rows: int) -> int | None:
    """The smallest width that holds `rows`, None where there is none."""
    return next((width for width in WIDTHS if rows <= width), None)


class Inputs:
    """What `width` rows over `capacity` slots read. Storages of one capacity share them.

    A row sees the slots below its `limit`, and those that `extra` marks: the branch of the tree it
    stands on. Chains need no marks, so one small upload is all that a round of them costs.
    Padding rows write to the scratch slot, which is no row's to read, and see slot 0 alone.

    Args:
        width: rows.
        capacity: slots that hold rows.
        device: where the model runs.
        windowed: whether any layer has a window, and asks for the places of slots.

    Attributes:
        tokens: `[width]` ids.
        positions: `[width]` places in the text.
        slots: `[width]` where keys and values go.
        limits: `[width]` the slots below are seen.
        take: `[width]` rows to return, in the order wanted.
        extra: `[width, capacity + 1]` slots seen beyond the limit.
        places: `[capacity + 1]` place in the text of each slot.
    """

    def __init__(
        self, width: int, capacity: int, device: torch.device, *, windowed: bool = True
    ) -> None:
        self.width, self.capacity, self._windowed = width, capacity, windowed
        self._packed = torch.zeros(5, width, dtype=torch.int64, device=device)
        self.tokens, self.positions, self.slots, self.limits, self.take = self._packed
        self.extra = torch.zeros(width, capacity + 1, dtype=torch.bool, device=device)
        self._order = torch.arange(capacity + 1, device=device)
        self.places = self._order.clone()
        self._marked = False
        self.park()

    def park(self) -> None:
        """Inputs that do no harm: every row is padding."""
        upload(self._packed, self._padding())
        self._clear()

    def load(self, feed: Feed, cache: StaticCache) -> None:
        """Inputs for `feed`, which must fit."""
        rows, packed = len(feed.tokens), self._padding()
        slots = np.arange(feed.start, feed.end)
        packed[0, :rows] = feed.tokens
        packed[1, :rows] = feed.positions
        packed[2, :rows] = slots
        packed[3, :rows] = slots + 1 if feed.tree is None else np.minimum(slots + 1, feed.base)
        packed[4, : len(feed.take)] = feed.take
        upload(self._packed, packed)
        self._clear()
        if feed.tree is not None:
            upload(self.extra[:rows, feed.base : feed.end], feed.tree)
        self._place(cache, feed.end if feed.tree is None else feed.base, feed.end)

    def follow(self, frontier: Frontier, cache: StaticCache) -> None:
        """Inputs for a single row at `frontier`, without its token; it may be moved on."""
        packed = self._padding()
        packed[1:4, 0] = frontier.position, frontier.slot, frontier.limit
        upload(self._packed, packed)
        self._clear()
        self._marked = True  # `advance` marks
        if frontier.beyond is not None:
            upload(self.extra[0, frontier.limit : frontier.slot], frontier.beyond)
        self._place(cache, frontier.limit, frontier.slot)

    def mark(self) -> None:
        """Let all rows see the slots now written. Part of a captured program."""
        self.extra.index_fill_(1, self.slots, True)
        self.places.index_copy_(0, self.slots, self.positions)

    def advance(self, last_position: int) -> None:
        """One place on; parked rows stay parked. Part of a captured program."""
        self.slots.add_(1).clamp_(max=self.capacity)
        self.positions.add_(1).clamp_(max=last_position)

    def _padding(self) -> IntArray:
        packed = np.zeros((5, self.width), dtype=np.int64)
        packed[2], packed[3] = self.capacity, 1
        return packed

    def _clear(self) -> None:
        if self._marked:
            self.extra.zero_()
            self.places.copy_(self._order)
        self._marked = False

    def _place(self, cache: StaticCache, start: int, end: int) -> None:
        """Note the places of slots `start .. end`; of all before them too if there are gaps."""
        first = 0 if self._windowed and cache.places.shift else start
        if first < end:
            upload(self.places[first:end], cache.slot_positions(end)[first:])
            self._marked = True


class Outputs:
    """Where a forward of `width` rows leaves what it returns, rows in the order wanted.

    Attributes:
        logits: `[width, vocab]`.
        hidden: `[width, hidden]`, what the head read.
        states: `[width, hidden]` each: what the layers watched have left, by number.
    """

    def __init__(
        self, width: int, config: DecoderConfig, like: Tensor, watched: Sequence[int] = ()
    ) -> None:
        self.logits = like.new_zeros(width, config.vocab_size)
        self.hidden = like.new_zeros(width, config.hidden_size)
        self.states = {layer: like.new_zeros(width, config.hidden_size) for layer in watched}
        self.states[config.num_layers] = self.hidden
