"""Feeds of several texts, packed one below the other, and what comes back for each."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import Feed
from outrider.models.llama.rope import RotaryTable


def packed_starts(feeds: Sequence[Feed]) -> IntArray:
    """Packed row of each feed's first token."""
    return np.cumsum([0, *(len(feed.tokens) for feed in feeds[:-1])])


def packed_rows(feeds: Sequence[Feed]) -> IntArray:
    """Packed rows to return, in the order wanted."""
    pairs = zip(feeds, packed_starts(feeds), strict=True)
    return np.concatenate([feed.take + start for feed, start in pairs])


def turns(
    rotary: RotaryTable, feeds: Sequence[Feed], device: torch.device
) -> tuple[Float[Tensor, "tokens 1 head_dim"], Float[Tensor, "tokens 1 head_dim"]]:
    """Cosines and signed sines of the packed rows."""
    positions = np.concatenate([feed.positions for feed in feeds])
    bound = int(positions.max()) + 1
    if all(feed.axes is None for feed in feeds):
        return rotary.at(torch.from_numpy(positions).to(device), bound)
    wide = [np.broadcast_to(f.positions, (3, len(f.tokens))) for f in feeds]
    axes = [own if f.axes is None else f.axes for f, own in zip(feeds, wide, strict=True)]
    return rotary.spread(torch.from_numpy(np.concatenate(axes, axis=1)).to(device), bound)
