"""Fills panels from the blocks of a file, in C, without a copy of the matrix."""

from typing import Any

import numpy as np
import torch

from outrider.kernels import library, pool
from outrider.kernels.layout import GROUP_BYTES, SPAN_NUMBERS, Matrix
from outrider.kernels.library import cores
from outrider.models.cpu.arena import Arena
from outrider.models.cpu.panels import STRIP, Panels
from outrider.models.quantization.grouped import GROUP
from outrider.models.quantization.stored_blocks import NUMBERS, REPACKED, Blocks

_STEP_BYTES = 16 << 20
"""Bytes of a file that are rearranged before their pages are released."""


def empty_panels(part: Blocks, arena: Arena) -> Panels:
    """Allocate the panels of a matrix; `fill_panels` writes them."""
    outputs, inputs = part.shape
    kind, groups, span = (
        REPACKED[part.format.name],
        -(-inputs // GROUP),
        part.format.weights // GROUP,
    )
    pairs = -(-outputs // STRIP)
    spans = None
    if numbers := SPAN_NUMBERS.get(kind):
        spans = arena.empty((pairs, -(-groups // span), numbers), torch.float16)
    return Panels(
        kind=kind,
        outputs=outputs,
        inputs=inputs,
        data=arena.empty((pairs, groups, GROUP_BYTES[kind]), torch.uint8),
        spans=spans,
        span=span,
    )


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
