"""Decodes the block formats of GGUF files.

A row of weights is stored in blocks of 32 or 256. A block holds small integers and the factors that
make weights of them, at fixed places. The functions read `[blocks, bytes]` and return float32
`[blocks, weights]`, with the operations of llama.cpp in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[Any]
"""Bytes, uint8."""
Floats = NDArray[Any]
"""Numbers, float32."""

_NL = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
"""The weights of IQ4_NL and IQ4_XS, by their four bits."""


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One format.

    Attributes:
        name: its name.
        weights: number of weights of a block.
        nbytes: bytes of a block.
        decode: from blocks to weights.
    """

    name: str
    weights: int
    nbytes: int
    decode: Callable[[Bytes], Floats]

    def row_bytes(self, inputs: int) -> int:
        """Return the bytes of a row of `inputs` weights, a multiple of `weights`."""
        return inputs // self.weights * self.nbytes

    def decode_rows(self, rows: Bytes) -> Floats:
        """Decode `[rows, bytes]` to `[rows, inputs]`; damaged blocks may give NaN."""
        with np.errstate(all="ignore"):
            return self.decode(rows.reshape(-1, self.nbytes)).reshape(len(rows), -1)


def half(blocks: Bytes, at: int) -> Floats:
    """Return the float16 number at byte `at` of each block, `[blocks, 1]`."""
    pairs = np.ascontiguousarray(blocks[:, at : at + 2])
    return pairs.view(np.float16).astype(np.float32)


def nibbles(packed: Bytes) -> Bytes:
    """Return the low halves of all bytes, then the high halves: `[..., 2 * bytes]`."""
    size = packed.shape[-1]
    out = np.empty((*packed.shape[:-1], 2 * size), dtype=np.uint8)
    np.bitwise_and(packed, 15, out=out[..., :size])
    np.right_shift(packed, 4, out=out[..., size:])
    return out


def fine_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the 8 scales and 8 minimums of 6 bits that Q4_K and Q5_K pack in 12 bytes."""
    first, middle, last = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, (last & 15) | (first >> 6 << 4)), axis=1)
    return scales, np.concatenate((middle & 63, (last >> 4) | (middle >> 6 << 4)), axis=1)


def _plain(kind: Any) -> Callable[[Bytes], Floats]:
    return lambda blocks: np.ascontiguousarray(blocks).view(kind).astype(np.float32)


def _bfloat16(blocks: Bytes) -> Floats:
    brief = np.ascontiguousarray(blocks).view(np.uint16).astype(np.uint32)
    return (brief << 16).view(np.float32)


def _q8_0(blocks: Bytes) -> Floats:
    return half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _times(factors: Floats, whole: Bytes, zero: int = 0) -> Floats:
    """Return `factors * (whole - zero)`; the result is the only new array of its size."""
    weights = whole.astype(np.float32)
    if zero:
        weights -= zero
    weights *= factors
    return weights


def _q4_0(blocks: Bytes) -> Floats:
    return _times(half(blocks, 0), nibbles(blocks[:, 2:]), 8)


def _q4_1(blocks: Bytes) -> Floats:
    weights = _times(half(blocks, 0), nibbles(blocks[:, 4:]))
    weights += half(blocks, 2)
    return weights


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """Return bit i of the 32 bits at byte `at`, for weight i, as 0 or 16."""
    bits = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    return bits << 4


def _q5_0(blocks: Bytes) -> Floats:
    whole = nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _times(half(blocks, 0), whole, 16)


def _q5_1(blocks: Bytes) -> Floats:
    whole = nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    weights = _times(half(blocks, 0), whole)
    weights += half(blocks, 2)
    return weights


def _two_bits(packed: Bytes) -> Bytes:
    """Return `[blocks, 256]`: each 32 bytes hold four runs of 32 values, two bits each."""
    runs = packed.reshape(len(packed), 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)
    return ((runs >> shifts) & 3).reshape(len(packed), 256)


def _scaled(factors: Floats, whole: Floats, size: int, offsets: Floats | None = None) -> Floats:
    """Multiply each run of `size` numbers of a block in place, and subtract its offset."""
    runs = whole.reshape(len(whole), -1, size)
    runs *= factors[:, :, None]
    if offsets is not None:
        runs -= offsets[:, :, None]
    return whole


def _q2_k(blocks: Bytes) -> Floats:
    fine = blocks[:, :16]
    scales = half(blocks, 80) * (fine & 15).astype(np.float32)
    minimums = half(blocks, 82) * (fine >> 4).astype(np.float32)
    whole = _two_bits(blocks[:, 16:80]).astype(np.float32)
    return _scaled(scales, whole, 16, minimums)


def _q3_k(blocks: Bytes) -> Floats:
    packed = blocks[:, 96:108]
    low = nibbles(packed[:, :8])
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 4, 1)
    high = ((packed[:, None, 8:] >> shifts) & 3).reshape(len(blocks), 16)
    fine = (low | (high << 4)).astype(np.float32) - 32
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    kept = (blocks[:, None, :32] >> bits & 1).reshape(len(blocks), 256)
    whole = (_two_bits(blocks[:, 32:96]) | (kept << 2)).astype(np.float32)
    whole -= 4
    return _scaled(half(blocks, 108) * fine, whole, 16)


def quarter_nibbles(packed: Bytes) -> Bytes:
    """Return `[blocks, 256]`: each 32 bytes hold 32 low halves, then 32 high halves."""
    return nibbles(packed.reshape(len(packed), 4, 32)).reshape(len(packed), 256)


def _q4_k(blocks: Bytes) -> Floats:
    scales, minimums = fine_scales(blocks[:, 4:16])
    return _with_minimums(blocks, scales, minimums, quarter_nibbles(blocks[:, 16:]))


def _q5_k(blocks: Bytes) -> Floats:
    scales, minimums = fine_scales(blocks[:, 4:16])
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    fifth = (blocks[:, None, 16:48] >> bits & 1).reshape(len(blocks), 256)
    return _with_minimums(blocks, scales, minimums, quarter_nibbles(blocks[:, 48:]) | (fifth << 4))


def _with_minimums(blocks: Bytes, scales: Bytes, minimums: Bytes, whole: Bytes) -> Floats:
    factors = half(blocks, 0) * scales.astype(np.float32)
    offsets = half(blocks, 2) * minimums.astype(np.float32)
    return _scaled(factors, whole.astype(np.float32), 32, offsets)


def _q6_k(blocks: Bytes) -> Floats:
    low = nibbles(blocks[:, :128].reshape(len(blocks), 2, 64)).reshape(len(blocks), 256)
    high = _two_bits(blocks[:, 128:192])
    whole = (low | (high << 4)).astype(np.float32) - 32
    fine = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return _scaled(half(blocks, 208) * fine, whole, 16)


def _uneven(four_bits: Bytes) -> Floats:
    """Return the numbers of `_NL`; `clip` needs no check of each index, and all are in range."""
    return np.take(_NL, four_bits, mode="clip")


def _iq4_nl(blocks: Bytes) -> Floats:
    weights = _uneven(nibbles(blocks[:, 2:]))
    weights *= half(blocks, 0)
    return weights


def _iq4_xs(blocks: Bytes) -> Floats:
    high = np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16)
    high = (high >> np.arange(0, 16, 2, dtype=np.uint16)) & 3
    low = np.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), axis=2).reshape(len(blocks), 8)
    fine = (low | (high.astype(np.uint8) << 4)).astype(np.float32) - 32
    whole = _uneven(nibbles(blocks[:, 8:].reshape(len(blocks), 8, 16))).reshape(len(blocks), 256)
    return _scaled(half(blocks, 0) * fine, whole, 32)


BLOCK_FORMATS: dict[int, BlockFormat] = {
    0: BlockFormat("F32", 1, 4, _plain(np.float32)),
    1: BlockFormat("F16", 1, 2, _plain(np.float16)),
    2: BlockFormat("Q4_0", 32, 18, _q4_0),
    3: BlockFormat("Q4_1", 32, 20, _q4_1),
    6: BlockFormat("Q5_0", 32, 22, _q5_0),
    7: BlockFormat("Q5_1", 32, 24, _q5_1),
    8: BlockFormat("Q8_0", 32, 34, _q8_0),
    10: BlockFormat("Q2_K", 256, 84, _q2_k),
    11: BlockFormat("Q3_K", 256, 110, _q3_k),
    12: BlockFormat("Q4_K", 256, 144, _q4_k),
    13: BlockFormat("Q5_K", 256, 176, _q5_k),
    14: BlockFormat("Q6_K", 256, 210, _q6_k),
    20: BlockFormat("IQ4_NL", 32, 18, _iq4_nl),
    23: BlockFormat("IQ4_XS", 256, 136, _iq4_xs),
    30: BlockFormat("BF16", 1, 2, _bfloat16),
}
"""Formats by the number that a GGUF file gives them."""
