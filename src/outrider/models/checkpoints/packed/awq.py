"""AWQ (Lin et al. 2023) in the `gemm` version of AutoAWQ.

qweight  I32 [inputs, outputs / 8]   eight outputs in a word, in the order of `_PLACES`
qzeros   I32 [groups, outputs / 8]   zero points, in the same order
scales   F16 [groups, outputs]
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from outrider.models.checkpoints.fields import Field
from outrider.models.checkpoints.packed.integers import Integers, StoredIntegers, packed_bytes
from outrider.models.checkpoints.packed.parts import (
    FLOATS,
    Format,
    Parts,
    Settings,
    check_group,
)
from outrider.models.checkpoints.packed.words import unpack
from outrider.models.checkpoints.tensors import TensorInfo

_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where each of eight outputs is in a word."""
_PER_WORD = len(_PLACES)


def _refusal(settings: Settings) -> str | None:
    for name in ("group_size", "q_group_size"):
        check_group(settings, name)
    bits = settings.get("bits", settings.get("w_bit", 4))
    if bits != 4:
        return f"weights of {bits} bits (awq) are not supported; supported: 4"
    for name in ("version", "checkpoint_format", "format"):
        version = settings.get(name) or "gemm"
        if version.lower() != "gemm":
            return f"AWQ in the version {version!r:.40} is not supported; supported: gemm"
    if settings.get("backend") == "llm-awq":
        return "AWQ for the backend 'llm-awq' is not supported; supported: autoawq"
    return None


def _reader(settings: Settings, modules: Sequence[str], file: str) -> Callable[[Parts], TensorInfo]:
    size = settings.get("group_size", settings.get("q_group_size", 128))

    def stored(parts: Parts) -> TensorInfo:
        inputs, words = parts.matrix("qweight", ("I32",))
        outputs = words * _PER_WORD
        group = inputs if size == -1 else size
        groups = -(-inputs // group)
        parts.check("qzeros", ("I32",), (groups, words))
        parts.check("scales", FLOATS, (groups, outputs))

        def load() -> Integers:
            return Integers(
                bits=4,
                group=group,
                quants=_unpack(parts.read("qweight")).t().contiguous(),
                scales=parts.read("scales").t(),
                zeros=_unpack(parts.read("qzeros")).t().to(torch.int16),
            )

        shape = outputs, inputs
        nbytes = packed_bytes(shape, 4, group, parts["scales"].dtype, symmetric=False)
        return parts.stored_as("qweight", shape, StoredIntegers("AWQ-4", parts, load, nbytes))

    return stored


def _unpack(words: Int32[Tensor, "rows words"]) -> UInt8[Tensor, "rows outputs"]:
    values = unpack(words, 4).unflatten(1, (-1, _PER_WORD))
    return values[:, :, list(_PLACES)].flatten(1)


AWQ = Format(
    parts=("qweight", "qzeros", "scales"),
    fields=(
        *(
            Field(name, ("whole number",), least=1, most=64, null=False)
            for name in ("bits", "w_bit")
        ),
        *(
            Field(name, ("whole number",), least=-1, most="inner", null=False)
            for name in ("group_size", "q_group_size")
        ),
        Field("zero_point", ("true or false",)),
        *(Field(name, ("text",)) for name in ("version", "checkpoint_format", "format", "backend")),
    ),
    refusal=_refusal,
    reader=_reader,
)
