"""Memory for weights: one after another, in large pages where the system has them.

A forward walks through all weights from end to end. In pages of 2 MiB the processor looks up
a five-hundredth of the addresses, and what it fetches ahead of a matrix is the next one.
"""

import mmap

import torch
from torch import Tensor

_PAGE = 2 << 20
_BLOCK = 16 * _PAGE
_LINE = 64


class Arena:
    """Hands out tensors that lie one after another; all live until the arena and they are gone."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._block: mmap.mmap | None = None
        self._used = 0

    def copy(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of `tensor`, on a cache line of its own."""
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
    """Anonymous memory; untouched pages take none."""
    block = mmap.mmap(-1, -(-size // _PAGE) * _PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block
