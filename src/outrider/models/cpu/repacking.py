"""Fills panels from the blocks of a file, in C, without a copy of the matrix."""

from typing import Any

import numpy as np
import torch

from outrider.kernels import library, pool
from outrider.kernels.layout import (
    GROUPS4,
    GROUPS4_FINE,
    GROUPS4_MIN,
    GROUPS6,
    GROUPS8,
    Matrix,
)
from outrider.kernels.library import cores
from outrider.models.cpu.arena import Arena
from outrider.models.cpu.panels import STRIP, Panels
from outrider.models.quantization.grouped import GROUP
from outrider.models.quantization.stored_blocks import NUMBERS, Blocks

_KINDS = {
    "Q8_0": GROUPS8,
    "Q4_0": GROUPS4,
    "Q4_1": GROUPS4_MIN,
    "Q4_K": GROUPS4_FINE,
    "Q6_K": GROUPS6,
}
_GROUP_BYTES = {GROUPS8: 1088, GROUPS4: 576, GROUPS4_MIN: 640, GROUPS4_FINE: 576, GROUPS6: 832}
"""Bytes of a group of 32 inputs of two panels."""
_SPAN_NUMBERS = {GROUPS4_FINE: 2 * STRIP, GROUPS6: STRIP}
"""Numbers in 16 bits of each span of two panels."""
_STEP_BYTES = 16 << 20
"""Bytes of a file that are rearranged before their pages are released."""


def empty_panels(part: Blocks, arena: Arena) -> Panels:
    """Allocate the panels of a matrix; `fill_panels` writes them."""
    outputs, inputs = part.shape
    kind, groups, span = _KINDS[part.format.name], -(-inputs // GROUP), part.format.weights // GROUP
    pairs = -(-outputs // STRIP)
    numbers = _SPAN_NUMBERS.get(kind)
    return Panels(
        kind=kind,
        outputs=outputs,
        inputs=inputs,
        data=arena.empty((pairs, groups, _GROUP_BYTES[kind]), torch.uint8),
        spans=numbers and arena.empty((pairs, -(-groups // span), numbers), torch.float16),
        span=span,
    )


def packed_bytes(name: str, outputs: int, inputs: int) -> int:
    """Return the bytes of the panels of a matrix in the format `name`, one of `REPACKED`."""
    kind, groups = _KINDS[name], -(-inputs // GROUP)
    span = 2 * _SPAN_NUMBERS.get(kind, 0) * -(-groups // 8)
    return -(-outputs // STRIP) * (groups * _GROUP_BYTES[kind] + span)


def fill_panels(part: Blocks, matrix: Matrix) -> None:
    """Rearrange the blocks of a matrix into its empty panels, on all processors.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    loaded: Any = library()
    rows = np.zeros(matrix.panels * STRIP // 2, dtype=np.uint64)
    rows[: len(part.order)] = part.addresses()
    pairs, length = len(rows) // STRIP, part.format.row_bytes(part.inputs)
    step = max(1, _STEP_BYTES // (STRIP * length))
    for first in range(0, pairs, step):
        bad = loaded.outrider_repack(
            matrix,
            NUMBERS[part.format.name],
            rows[first * STRIP :].ctypes.data,
            first,
            min(first + step, pairs),
            pool(),
            cores(),
        )
        for source in part.sources:
            if bad:
                source.check()
            source.release()
