"""Keys and values of positions of one text, kept between forwards of a denoiser."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import BoolArray, IntArray


class Owner:
    """Marks the stores of one model: two stores with the same owner have rows of one model."""


class DenoiserStore:
    """The `RowStore` of `MaskedDenoiser`: room for all positions, and which of them are valid.

    Keys are stored after the rotation by their position, which never changes.

    Attributes:
        keys: `[layers, kv_heads, length, head_dim]`.
        values: as `keys`.
        valid: `[length]`, which positions are stored; other rows of the tensors hold anything.
        owner: that of the model whose rows it holds.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        owner: Owner,
    ) -> None:
        self.keys: Float[Tensor, "layers kv_heads length head_dim"]
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values: Float[Tensor, "layers kv_heads length head_dim"] = torch.empty_like(self.keys)
        self.valid: BoolArray = np.zeros(shape[2], dtype=np.bool_)
        self.owner = owner

    @property
    def length(self) -> int:
        """The number of positions of the text."""
        return len(self.valid)

    @property
    def positions(self) -> IntArray:
        """The positions that are stored, ascending."""
        return np.flatnonzero(self.valid)

    def drop(self, positions: IntArray | None = None) -> None:
        """Forget these positions; with None, all of them.

        Raises:
            ValueError: a position is outside the text.
        """
        if positions is None:
            self.valid[:] = False
            return
        found = np.asarray(positions, dtype=np.int64)
        if len(found) and (found.min() < 0 or found.max() >= self.length):
            raise ValueError(f"positions outside a text of {self.length}")
        self.valid[found] = False

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that are stored."""
        layers, heads, _, dim = self.keys.shape
        return 2 * int(self.valid.sum()) * layers * heads * dim * self.keys.itemsize


Runs = Sequence[slice] | Tensor
"""Positions as a few slices, or as a tensor of indices where slices would be many."""

_MOST_SLICES = 4


def as_runs(positions: IntArray, device: torch.device) -> Runs:
    """Return ascending positions as slices where they are few, so that reading needs no index."""
    if not len(positions):
        return []
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    if len(breaks) >= _MOST_SLICES:
        return torch.from_numpy(positions).to(device)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in np.split(positions, breaks)]


def taken(
    rows: Float[Tensor, "kv_heads length head_dim"], runs: Runs
) -> list[Float[Tensor, "kv_heads positions head_dim"]]:
    """Return the rows of these positions, in parts; slices are views."""
    if isinstance(runs, Tensor):
        return [rows.index_select(1, runs)]
    return [rows[:, run] for run in runs]


def written(
    rows: Float[Tensor, "kv_heads length head_dim"],
    runs: Runs,
    fresh: Float[Tensor, "kv_heads positions head_dim"],
) -> None:
    """Overwrite the rows of these positions."""
    if isinstance(runs, Tensor):
        rows.index_copy_(1, runs, fresh)
        return
    start = 0
    for run in runs:
        end = start + run.stop - run.start
        rows[:, run] = fresh[:, start:end]
        start = end
