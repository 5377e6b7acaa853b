"""Hidden states as the compiled kernels leave them."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class States:
    """Where one forward leaves the states that are watched, of the rows that it returns.

    The kernels copy the residual stream before chosen layers, and after the last one. State i is
    the stream before the first layer of number i (counted from 0) or more that is run; the last
    state is the normed one, which the forward returns anyway.

    Attributes:
        kept: `[places, rows, hidden]`, which the kernels fill.
        places: `[layers that are run + 1]` the place of the stream before each; -1: it is not kept.
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
        """The states watched, in ascending order; `hidden` is the last one."""
        kept = self.kept if len(self._index) == len(self.kept) else self.kept[self._index]
        return torch.cat((kept, hidden[None])) if self._has_last else kept
