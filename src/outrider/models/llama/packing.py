"""Packs feeds of several texts one after the other, and splits the results."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import Feed
from outrider.models.llama.rope import RotaryTable


def packed_starts(feeds: Sequence[Feed]) -> IntArray:
    """Return the packed row of the first token of each feed."""
    return np.cumsum([0, *(len(feed.tokens) for feed in feeds[:-1])])


def packed_rows(feeds: Sequence[Feed]) -> IntArray:
    """Return the packed rows to return, in the requested order."""
    pairs = zip(feeds, packed_starts(feeds), strict=True)
    return np.concatenate([feed.take + start for feed, start in pairs])


def turns(
    rotary: RotaryTable, feeds: Sequence[Feed], device: torch.device
) -> tuple[Float[Tensor, "tokens 1 head_dim"], Float[Tensor, "tokens 1 head_dim"]]:
    """Compute cosines and signed sines of the packed rows."""
    positions = np.concatenate([feed.positions for feed in feeds])
    bound = int(positions.max()) + 1
    if all(feed.axes is None for feed in feeds):
        return rotary.at(torch.from_numpy(positions).to(device), bound)
    wide = [np.broadcast_to(f.positions, (3, len(f.tokens))) for f in feeds]
    axes = [own if f.axes is None else f.axes for f, own in zip(feeds, wide, strict=True)]
    return rotary.spread(torch.from_numpy(np.concatenate(axes, axis=1)).to(device), bound)
