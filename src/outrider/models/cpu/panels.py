"""Encoded matrices in the panels that the kernels read (`kernels/csrc/matrix.h`)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from outrider.kernels.layout import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    GROUPS4,
    GROUPS4_FINE,
    GROUPS4_MIN,
    GROUPS8,
    INT8,
)
from outrider.models.cpu.encoding import shape_of
from outrider.models.quantization.grouped import GROUP, Grouped
from outrider.models.quantization.int8 import Quantized

VECTOR = 16
"""Outputs of one panel: the floats of one vector."""
STRIP = 2 * VECTOR
"""Rows of two panels; panels come in pairs."""
_QUADS = GROUP // 4
_FLOATS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


@dataclass(slots=True, kw_only=True)
class Panels:
    """One matrix in the layout of its kind. Vectors have an entry for each output of the panels."""

    kind: int
    outputs: int
    inputs: int
    data: Tensor
    scale: Tensor | None = None
    sum: Tensor | None = None
    spans: Tensor | None = None
    span: int = 1

    @property
    def count(self) -> int:
        """Number of panels."""
        return -(-self.outputs // STRIP) * 2


def to_panels(part: Grouped | Quantized | Tensor, offset: int) -> Panels:
    """Arrange a matrix in panels.

    Args:
        part: the matrix.
        offset: added to weights of 8 bits in groups: 128 where the processor multiplies unsigned
            weights, 0 where it multiplies signed ones.
    """
    if isinstance(part, Grouped):
        return _groups(part, offset)
    outputs, inputs = shape_of(part)
    if isinstance(part, Quantized):
        return _channels(part, outputs, inputs)
    panels = _padded(part, 1 + (part.dtype == torch.bfloat16))
    if part.dtype == torch.bfloat16:
        panels = panels.view(-1, VECTOR, panels.shape[1] // 2, 2).transpose(1, 2)
    else:
        panels = panels.view(-1, VECTOR, inputs).transpose(1, 2)
    return Panels(kind=_FLOATS[part.dtype], outputs=outputs, inputs=inputs, data=panels)


def _channels(part: Quantized, outputs: int, inputs: int) -> Panels:
    quants = _padded(part.quants, 4)
    return Panels(
        kind=INT8,
        outputs=outputs,
        inputs=inputs,
        data=quants.view(-1, VECTOR, quants.shape[1] // 4, 4).transpose(1, 2),
        scale=F.pad(part.scales, (0, -outputs % STRIP)),
        sum=quants.sum(dim=1, dtype=torch.int32).float(),
    )


def _groups(part: Grouped, offset: int) -> Panels:
    """Lay integers and factors of each group side by side, so that one stream of memory is read."""
    outputs, inputs = part.shape
    pieces = [_integers(part, offset)]
    kind, spans, span = GROUPS8 if part.bits == 8 else GROUPS4, None, part.span // GROUP
    if part.minimums is not None and (part.fine is not None or part.fine_minimums is not None):
        kind = GROUPS4_FINE
        pieces += [_fine(part.fine, part), _fine(part.fine_minimums, part)]
        spans = torch.stack((_by_pair(part.scales), _by_pair(part.minimums)), dim=2)
    else:
        pieces.append(_briefs(part.scales, part))
        if part.minimums is not None:
            kind = GROUPS4_MIN
            pieces.append(_briefs(-part.minimums, part))
    assert kind != GROUPS8 or (part.minimums is None and part.fine is None and part.zero == 128)
    assert kind != GROUPS4 or (part.fine is None and part.zero == 8)
    return Panels(
        kind=kind,
        outputs=outputs,
        inputs=inputs,
        data=torch.cat(pieces, dim=-1),
        spans=spans,
        span=span,
    )


def _integers(part: Grouped, offset: int) -> UInt8[Tensor, "pairs groups bytes"]:
    quants = _padded(part.quants, GROUP)
    quads = quants.view(len(quants) // STRIP, 2, VECTOR, -1, _QUADS, 4)
    if part.bits == 8:
        if offset != part.zero:
            quads = quads ^ 0x80  # two's complement of the integer less 128
        return quads.permute(0, 3, 4, 1, 2, 5).flatten(2)
    both = quads[:, 0] | (quads[:, 1] << 4)
    return both.permute(0, 2, 3, 1, 4).flatten(2)


def _briefs(scales: Tensor, part: Grouped) -> UInt8[Tensor, "pairs groups bytes"]:
    """Return float16 factors of each group, as bytes."""
    spread = scales.repeat_interleave(part.span // GROUP, dim=1)
    groups = -(-part.shape[1] // GROUP)
    return _by_pair(spread[:, :groups]).contiguous().view(torch.uint8)


def _fine(fine: Tensor | None, part: Grouped) -> UInt8[Tensor, "pairs groups bytes"]:
    groups = -(-part.shape[1] // GROUP)
    ones = torch.ones(part.shape[0], groups, dtype=torch.uint8) if fine is None else fine
    return _by_pair(ones)


def _by_pair(factors: Tensor) -> Tensor:
    """Return `[pairs, columns, 32]`: the 32 outputs of two panels side by side."""
    padded = F.pad(factors, (0, 0, 0, -len(factors) % STRIP))
    return padded.view(len(padded) // STRIP, STRIP, -1).transpose(1, 2)


def _padded(rows: Tensor, step: int) -> Tensor:
    """Fill rows to pairs of panels, and columns to a multiple of `step`, with zeros."""
    missing = -rows.shape[1] % step, -rows.shape[0] % STRIP
    return F.pad(rows, (0, missing[0], 0, missing[1])) if any(missing) else rows
