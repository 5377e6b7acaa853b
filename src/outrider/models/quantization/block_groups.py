"""Block formats of GGUF files as groups of integers, without a change of any weight."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from outrider.models.quantization.blocks import (
    BLOCK_FORMATS,
    Bytes,
    fine_scales,
    nibbles,
    quarter_nibbles,
)
from outrider.models.quantization.grouped import GROUP, Grouped


def grouped_rows(name: str, rows: Bytes) -> Grouped:
    """Return the matrix that `[outputs, bytes]` in the format `name` (one of `GROUPED`) stores."""
    size = {known.name: known.nbytes for known in BLOCK_FORMATS.values()}[name]
    return GROUPED[name](rows.reshape(-1, size), len(rows))


def _q8_0(blocks: Bytes, outputs: int) -> Grouped:
    whole = blocks[:, 2:] ^ 0x80  # the signed integer and 128
    return Grouped(
        bits=8,
        zero=128,
        span=GROUP,
        quants=_matrix(whole, outputs),
        scales=_half(blocks, 0, outputs),
    )


def _q4_0(blocks: Bytes, outputs: int) -> Grouped:
    return Grouped(
        bits=4,
        zero=8,
        span=GROUP,
        quants=_matrix(nibbles(blocks[:, 2:]), outputs),
        scales=_half(blocks, 0, outputs),
    )


def _q4_1(blocks: Bytes, outputs: int) -> Grouped:
    return Grouped(
        bits=4,
        zero=0,
        span=GROUP,
        quants=_matrix(nibbles(blocks[:, 4:]), outputs),
        scales=_half(blocks, 0, outputs),
        minimums=-_half(blocks, 2, outputs),
    )


def _q4_k(blocks: Bytes, outputs: int) -> Grouped:
    scales, minimums = fine_scales(blocks[:, 4:16])
    return Grouped(
        bits=4,
        zero=0,
        span=256,
        quants=_matrix(quarter_nibbles(blocks[:, 16:]), outputs),
        scales=_half(blocks, 0, outputs),
        fine=_matrix(scales, outputs),
        minimums=_half(blocks, 2, outputs),
        fine_minimums=_matrix(minimums, outputs),
    )


GROUPED: dict[str, Callable[[Bytes, int], Grouped]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
}
"""Formats that kernels read."""


def _matrix(values: Bytes, outputs: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).view(outputs, -1)


def _half(blocks: Bytes, at: int, outputs: int) -> Tensor:
    """Return the float16 number at byte `at` of each block, `[outputs, blocks of a row]`."""
    pairs = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)
    return torch.from_numpy(pairs).view(outputs, -1)
