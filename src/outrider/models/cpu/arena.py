"""Contiguous memory for weights, in large pages if the system has them.

A forward reads all weights in order. With pages of 2 MiB the processor looks up one five-hundredth
of the addresses, and the hardware prefetcher loads the next matrix.
"""

import math
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

_PAGE = 2 << 20
_BLOCK = 128 * _PAGE
_LINE = 64


class Arena:
    """Allocates tensors one after another; the memory lives as long as the arena or any of them."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._block: mmap.mmap | None = None
        self._used = 0

    def copy(self, tensor: Tensor) -> Tensor:
        """Copy `tensor` to contiguous memory that starts on a cache line."""
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Allocate a contiguous tensor that starts on a cache line."""
        count = math.prod(shape)
        size = count * dtype.itemsize
        start = -(-self._used // _LINE) * _LINE
        if self._block is None or start + size > len(self._block):
            self._block, start = _pages(max(size, _BLOCK)), 0
        self._used = start + size
        self.nbytes += size
        if not size:
            return torch.empty(*shape, dtype=dtype)
        return torch.frombuffer(self._block, dtype=dtype, count=count, offset=start).view(*shape)


def _pages(size: int) -> mmap.mmap:
    """Map anonymous memory; untouched pages use no memory.

    Large pages are used for private memory only, unless the system is told otherwise.
    """
    size = -(-size // _PAGE) * _PAGE
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block
