"""Small integers packed into words of 32 bits, the first one in the lowest bits."""

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor


def unpack(words: Int32[Tensor, "rows words"], bits: int) -> UInt8[Tensor, "rows values"]:
    """Return the integers of each row, 8 or 4 from a word.

    Args:
        words: the words, little-endian as in the file.
        bits: 4 or 8.
    """
    # clone, since contiguous() keeps odd strides of an axis of size 1
    octets = words.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    if bits == 8:
        return octets
    return torch.stack((octets & 15, octets >> 4), dim=2).flatten(1)
