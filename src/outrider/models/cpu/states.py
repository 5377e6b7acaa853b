"""Hidden states that the compiled kernels write."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


class States:
    """Buffers for the watched hidden states of the rows that one forward returns.

    The kernels copy the residual stream before chosen layers, and after the last one. State i is
    the stream before the first layer that runs and has a number of at least i (counted from 0). The
    last state is the normed one, which every forward returns.

    Attributes:
        kept: `[places, rows, hidden]`, filled by the kernels.
        places: `[layers that run + 1]` index into `kept` of the stream before each layer; -1 if it
            is not kept.
    """

    def __init__(
        self,
        watched: Sequence[int],
        layers: Sequence[int],
        num_layers: int,
        hidden: Float[Tensor, "rows hidden"],
    ) -> None:
        before = [bisect_left(layers, state) for state in watched if state < num_layers]
        order = sorted(set(before))
        self.kept = torch.empty(len(order), *hidden.shape)
        self.places = np.full(len(layers) + 1, -1, dtype=np.int32)
        self.places[order] = np.arange(len(order))
        self._index = self.places[before].tolist()
        self._has_last = len(before) < len(watched)

    def all(self, hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "layers rows hidden"]:
        """Return the watched states in ascending order; `hidden` is the last one."""
        kept = self.kept if len(self._index) == len(self.kept) else self.kept[self._index]
        return torch.cat((kept, hidden[None])) if self._has_last else kept


def kept_places(
    order: Sequence[int], kept: Sequence[int], layers: Sequence[int], num_layers: int
) -> NDArray[np.int32] | None:
    """Return the place of each state in a row of the storage: `[layers that run + 2]`, -1 if it is
    not kept; the last one is the normed state. None if nothing is kept.

    Args:
        order: all states of the storage, in its order.
        kept: those that this forward writes.
        layers: the layers that run, without gaps.
        num_layers: number of layers of the whole model.
    """
    if not kept:
        return None
    places = np.full(len(layers) + 2, -1, dtype=np.int32)
    for state in kept:
        index = state - layers[0] if state < num_layers else len(layers) + 1
        places[index] = order.index(state)
    return places
