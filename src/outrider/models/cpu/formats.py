"""The dtypes of the compiled runner, by the names that `--dtype` takes."""

from collections import Counter
from dataclasses import dataclass

import torch

from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.cpu.encoding import CHANNELS, INT4
from outrider.models.llama.experts import is_router


@dataclass(frozen=True, slots=True)
class Format:
    """One dtype of weights.

    Attributes:
        name: its name on the command line.
        dtype: what `NativeDecoder.load` takes; None keeps what the file stores.
    """

    name: str
    dtype: torch.dtype | None


FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        Format("float32", torch.float32),
        Format("bfloat16", torch.bfloat16),
        Format("float16", torch.float16),
        Format("int8", torch.int8),
        Format("int8-channels", CHANNELS),
        Format("int4", INT4),
        Format("stored", None),
    )
}

_BRIEF = {"BF16": "bfloat16", "F16": "float16"}


def lossless(checkpoint: Checkpoint) -> Format:
    """Return the smallest format that holds all weights of a checkpoint exactly.

    For quantised checkpoints this is what they store; the kernels then round the activations.
    """
    for info in checkpoint.tensors.values():
        if info.stored is not None and info.dtype not in ("F32", *_BRIEF):
            return FORMATS["stored"]
    matrices = {
        info.dtype
        for name, info in checkpoint.tensors.items()
        if len(info.shape) > 1 and not is_router(name)
    }
    changed = any(info.change is not None for info in checkpoint.tensors.values())
    brief = _BRIEF.get(next(iter(matrices))) if len(matrices) == 1 and not changed else None
    return FORMATS[brief or "float32"]


def name_of(dtype: torch.dtype | None) -> str:
    """Return the name of what `NativeDecoder.load` takes. Raises `KeyError` for other dtypes."""
    return {known.dtype: known.name for known in FORMATS.values()}[dtype]


def described(checkpoint: Checkpoint, dtype: torch.dtype | None) -> str:
    """Return the name of a dtype; for stored weights with their formats, largest first."""
    name = name_of(dtype)
    if dtype is not None:
        return name
    sizes = Counter[str]()
    for info in checkpoint.tensors.values():
        if len(info.shape) > 1:
            sizes[info.dtype] += info.nbytes
    return f"{name} ({', '.join(kind for kind, _ in sizes.most_common(3))})"
