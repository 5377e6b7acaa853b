"""Input and output buffers of a forward with static shapes."""

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
"""Numbers of rows of a forward; fewer rows are padded."""


def width_for(rows: int) -> int | None:
    """Return the smallest width that holds `rows`, or None."""
    return next((width for width in WIDTHS if rows <= width), None)


class Inputs:
    """Inputs of `width` rows over `capacity` slots. Storages of one capacity share them.

    A row attends to the slots below its `limit` and to those marked in `extra`, its branch of the
    tree. Chains need no marks, so a round of chains needs only one small upload. Padding rows write
    to the scratch slot, which no row reads, and attend only to slot 0.

    Args:
        width: number of rows.
        capacity: number of slots that hold rows.
        device: where the model runs.
        windowed: whether any layer has a window and needs the places of slots.

    Attributes:
        tokens: `[width]` ids.
        positions: `[width]` places in the text.
        slots: `[width]` slots for keys and values.
        limits: `[width]` the slots below are visible.
        take: `[width]` rows to return, in the requested order.
        extra: `[width, capacity + 1]` slots visible beyond the limit.
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
        """Set every row to padding."""
        upload(self._packed, self._padding())
        self._clear()

    def load(self, feed: Feed, cache: StaticCache) -> None:
        """Load the inputs for `feed`, which must fit."""
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
        """Load a single row at `frontier`, without its token; `advance` can move it."""
        packed = self._padding()
        packed[1:4, 0] = frontier.position, frontier.slot, frontier.limit
        upload(self._packed, packed)
        self._clear()
        self._marked = True  # `advance` changes the marks
        if frontier.beyond is not None:
            upload(self.extra[0, frontier.limit : frontier.slot], frontier.beyond)
        self._place(cache, frontier.limit, frontier.slot)

    def mark(self) -> None:
        """Make the written slots visible to all rows. Part of a captured program."""
        self.extra.index_fill_(1, self.slots, True)
        self.places.index_copy_(0, self.slots, self.positions)

    def advance(self, last_position: int) -> None:
        """Move all rows one place on, except padding rows. Part of a captured program."""
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
        """Record the places of slots `start .. end`; if there are gaps, also of all earlier
        slots.
        """
        first = 0 if self._windowed and cache.places.shift else start
        if first < end:
            upload(self.places[first:end], cache.slot_positions(end)[first:])
            self._marked = True


class Outputs:
    """Results of a forward of `width` rows, in the requested order.

    Attributes:
        logits: `[width, vocab]`.
        hidden: `[width, hidden]`, input of the head.
        states: `[width, hidden]` each: outputs of the watched layers, by number.
    """

    def __init__(
        self, width: int, config: DecoderConfig, like: Tensor, watched: Sequence[int] = ()
    ) -> None:
        self.logits = like.new_zeros(width, config.vocab_size)
        self.hidden = like.new_zeros(width, config.hidden_size)
        self.states = {layer: like.new_zeros(width, config.hidden_size) for layer in watched}
        self.states[config.num_layers] = self.hidden
