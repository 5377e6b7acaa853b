"""Contiguous memory for weights, in large pages if the system has them.

A forward reads all weights in order. With pages of 2 MiB the processor looks up one five-hundredth
of the addresses, and the hardware prefetcher loads the next matrix.
"""

import mmap

import torch
from torch import Tensor

_PAGE = 2 << 20
_BLOCK = 16 * _PAGE
_LINE = 64


class Arena:
    """Allocates tensors one after another; the memory lives as long as the arena or any of them."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._block: mmap.mmap | None = None
        self._used = 0

    def copy(self, tensor: Tensor) -> Tensor:
        """Copy `tensor` to contiguous memory that starts on a cache line."""
        size = tensor.numel() * tensor.element_size()
        start = -(-self._used // _LINE) * _LINE
        if self._block is None or start + size > len(self._block):
            self._block, start = _pages(max(size, _BLOCK)), 0
        self._used = start + size
        self.nbytes += size
        if not size:
            return tensor.clone()
        own = torch.frombuffer(
            self._block, dtype=tensor.dtype, count=tensor.numel(), offset=start
        ).view(tensor.shape)
        return own.copy_(tensor)


def _pages(size: int) -> mmap.mmap:
    """Map anonymous memory; untouched pages use no memory."""
    block = mmap.mmap(-1, -(-size // _PAGE) * _PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block
