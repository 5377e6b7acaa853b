"""Matrices in the blocks of a file: they are rearranged for the kernels without being decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from outrider.kernels.layout import GROUPS4, GROUPS4_FINE, GROUPS4_MIN, GROUPS6, GROUPS8
from outrider.models.quantization.blocks import BLOCK_FORMATS, BlockFormat

REPACKED = {
    "Q8_0": GROUPS8,
    "Q4_0": GROUPS4,
    "Q4_1": GROUPS4_MIN,
    "Q4_K": GROUPS4_FINE,
    "Q6_K": GROUPS6,
}
"""Formats that kernels read, and the kind of matrix that each becomes."""

NUMBERS = {known.name: number for number, known in BLOCK_FORMATS.items()}
"""The number of each format in GGUF files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSource:
    """Rows of one tensor in a file.

    Attributes:
        rows: the bytes, `[rows, bytes]`; they are read from the file when they are used.
        check: raises `CheckpointError` if a weight is NaN or infinite.
        release: frees the memory of the pages that were read.
    """

    rows: NDArray[np.uint8]
    check: Callable[[], None]
    release: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A matrix whose rows lie in one or several tensors of a file.

    Attributes:
        format: the format of its blocks, one of `REPACKED`.
        inputs: weights of a row.
        sources: the tensors.
        order: for each output the number of its row, counted over all sources; -1 for zeros.
    """

    format: BlockFormat
    inputs: int
    sources: tuple[BlockSource, ...]
    order: Int64[Tensor, " outputs"]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of outputs and of inputs."""
        return len(self.order), self.inputs

    def reordered(self, order: Int64[Tensor, " rows"]) -> "Blocks":
        """Return the rows `order` of the matrix; -1 stands for a row of zeros."""
        return replace(self, order=torch.cat((self.order, torch.tensor([-1])))[order])

    def dequantize(self) -> Float[Tensor, "outputs inputs"]:
        """Return the float32 weights.

        Raises:
            CheckpointError: a weight is NaN or infinite.
        """
        length = self.format.row_bytes(self.inputs)
        found = np.zeros((len(self.order), length), dtype=np.uint8)
        order, first = self.order.numpy(), 0
        for source in self.sources:
            own = (order >= first) & (order < first + len(source.rows))
            found[own] = source.rows[order[own] - first]
            first += len(source.rows)
        whole = torch.from_numpy(self.format.decode_rows(found))
        if not whole.isfinite().all():
            for source in self.sources:
                source.check()
        return whole

    def addresses(self) -> NDArray[np.uint64]:
        """Return the address of each row, 0 for zeros; they are valid while the sources live."""
        starts = [
            source.rows.ctypes.data + np.arange(len(source.rows)) * source.rows.strides[0]
            for source in self.sources
        ]
        return np.concatenate((*starts, [0])).astype(np.uint64)[self.order.numpy()]


def join_blocks(parts: Sequence[Blocks]) -> Blocks | None:
    """Put matrices below each other; None if their formats differ."""
    first = parts[0]
    if any((part.format, part.inputs) != (first.format, first.inputs) for part in parts):
        return None
    orders: list[Tensor] = []
    rows = 0
    for part in parts:
        orders.append(torch.where(part.order < 0, part.order, part.order + rows))
        rows += sum(len(source.rows) for source in part.sources)
    sources = tuple(source for part in parts for source in part.sources)
    return replace(first, sources=sources, order=torch.cat(orders))
