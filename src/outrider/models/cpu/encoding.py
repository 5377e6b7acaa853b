"""Weights in the numbers that a kind of matrix stores."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.models.checkpoints.checkpoint import Checkpoint, load_grouped, load_tensors
from outrider.models.llama.weights import EMBED
from outrider.models.quantization.grouped import Grouped, join, quantize_groups
from outrider.models.quantization.int4 import quantize_int4
from outrider.models.quantization.int8 import Quantized, quantize_channels
from outrider.models.quantization.stored_blocks import Blocks, join_blocks

Encoded = Grouped | Blocks | Quantized | Float[Tensor, "_ _"]
"""Integers with scales, or floating-point numbers in their own dtype."""

CHANNELS = torch.qint8
"""The dtype for 8 bits with one scale for each output; `torch.int8` has one for each group."""

INT4 = torch.quint4x2
"""The dtype for 4 bits in groups, with a scale and a minimum for each group."""

KEPT = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Formats of files that stay as they are."""


def encode(
    checkpoint: Checkpoint, names: Sequence[str], dtype: torch.dtype | None
) -> list[Encoded]:
    """Read matrices that have the same input.

    Args:
        checkpoint: the checkpoint.
        names: the matrices.
        dtype: `torch.float32`, `torch.bfloat16` or `torch.float16`; `torch.int8` or `INT4` for
            groups; `CHANNELS`; None keeps what the file stores, where a kernel reads it, and
            uses 8 bits in groups elsewhere.

    Raises:
        CheckpointError: a tensor is missing, damaged or not finite.
    """
    return [_encode(checkpoint, name, dtype) for name in names]


def _encode(checkpoint: Checkpoint, name: str, dtype: torch.dtype | None) -> Encoded:
    if dtype is None:
        if (grouped := load_grouped(checkpoint, name)) is not None:
            return grouped
        info = checkpoint.tensors[name]
        changed = info.change is not None
        dtype = torch.float32 if changed else KEPT.get(info.dtype, torch.int8)
    if dtype.is_floating_point:
        return load_tensors(checkpoint, [name], dtype)[name]
    weight = load_tensors(checkpoint, [name], torch.float32)[name]
    return _QUANTIZE[dtype](weight)


_QUANTIZE: dict[torch.dtype, Callable[[Tensor], Encoded]] = {
    CHANNELS: quantize_channels,
    torch.int8: quantize_groups,
    INT4: quantize_int4,
}


def exact_embeddings(checkpoint: Checkpoint, dtype: torch.dtype | None) -> torch.dtype | None:
    """Return a dtype that keeps embeddings which are not the head: a forward reads only a few."""
    if dtype is None or dtype.is_floating_point:
        return dtype
    return torch.bfloat16 if checkpoint.tensors[EMBED].dtype == "BF16" else torch.float32


def joined(parts: Sequence[Encoded]) -> Encoded | None:
    """Put matrices with the same input below each other; None if they store other numbers."""
    if len(parts) == 1:
        return parts[0]
    grouped = [part for part in parts if isinstance(part, Grouped)]
    if len(grouped) == len(parts):
        return join(grouped)
    blocks = [part for part in parts if isinstance(part, Blocks)]
    if len(blocks) == len(parts):
        return join_blocks(blocks)
    channels = [part for part in parts if isinstance(part, Quantized)]
    if len(channels) == len(parts):
        quants = torch.cat([part.quants for part in channels])
        return Quantized(quants, torch.cat([part.scales for part in channels]))
    plain = [part for part in parts if isinstance(part, Tensor)]
    if len(plain) == len(parts) and len({part.dtype for part in plain}) == 1:
        return torch.cat(plain)
    return None


def to_groups(part: Encoded) -> Grouped:
    """Return the matrix in groups of 8 bits."""
    plain = part if isinstance(part, Tensor) else part.dequantize()
    return quantize_groups(plain.float())


def changed_rows(part: Encoded, order: Tensor) -> Encoded:
    """Return the rows `order` of a matrix; -1 stands for a row of zeros."""

    def change(rows: Tensor) -> Tensor:
        padded = torch.cat((rows, torch.zeros_like(rows[:1])))
        return padded[order]

    if isinstance(part, Blocks):
        return part.reordered(order)
    if isinstance(part, Grouped):
        return part.change_rows(change)
    if isinstance(part, Quantized):
        return Quantized(change(part.quants), change(part.scales))
    return change(part)


def shape_of(part: Encoded) -> tuple[int, int]:
    """Return the number of outputs and of inputs."""
    outputs, inputs = part.quants.shape if isinstance(part, Quantized) else part.shape
    return int(outputs), int(inputs)
