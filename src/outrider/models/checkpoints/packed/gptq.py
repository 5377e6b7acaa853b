"""GPTQ (Frantar et al. 2022), as AutoGPTQ and GPTQModel store it.

    qweight  I32 [inputs * bits / 32, outputs]   integers of one output below each other
    qzeros   I32 [groups, outputs * bits / 32]   zero points, minus one in checkpoint_format `gptq`
    scales   F16 [groups, outputs]
    g_idx    I32 [inputs]                        the group of each input

With `desc_act` the inputs of a group do not follow each other; `g_idx` says where they are.
"""

from collections.abc import Callable, Sequence

import torch

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

_BITS = (4, 8)
_LAYOUTS = ("gptq", "gptq_v2")
_ONES = {4: 0x11111111, 8: 0x01010101}
"""One for each zero point of a word."""


def _refusal(settings: Settings) -> str | None:
    check_group(settings, "group_size")
    bits, layout = settings["bits"], _layout(settings)
    if bits not in _BITS:
        return f"weights of {bits} bits (gptq) are not supported; supported: 4 and 8"
    if layout not in _LAYOUTS or settings.get("is_marlin_format"):
        named = "marlin" if layout in _LAYOUTS else layout
        return f"GPTQ in the form {named!r:.40} is not supported; supported: {', '.join(_LAYOUTS)}"
    if settings.get("pack_dtype", "int32") not in ("int32", "torch.int32"):
        return f"GPTQ packed into {settings['pack_dtype']!r:.40} is not supported, only into int32"
    for name in ("rotation", "adapter"):
        if settings.get(name):
            return f"GPTQ with {name} {settings[name]!r:.40} is not supported"
    own = [one for one in settings.get("dynamic") or {} if not one.startswith("-")]
    if own:
        return f"GPTQ with settings for single modules (dynamic {own[0]!r:.40}) is not supported"
    return None


def _layout(settings: Settings) -> str:
    return settings.get("checkpoint_format") or settings.get("format") or "gptq"


def _reader(settings: Settings, modules: Sequence[str], file: str) -> Callable[[Parts], TensorInfo]:
    bits, given = settings["bits"], settings["group_size"]
    ones = _ONES[bits] if _layout(settings) == "gptq" else 0
    per_word = 32 // bits

    def read(parts: Parts) -> TensorInfo:
        rows, outputs = parts.matrix("qweight", ("I32",))
        inputs = rows * per_word
        group = inputs if given == -1 else given
        groups = -(-inputs // group)
        if outputs % per_word:
            raise parts.unfit(
                "qweight", f"has {outputs} columns, expected a multiple of {per_word}"
            )
        parts.check("qzeros", ("I32",), (groups, outputs // per_word))
        parts.check("scales", FLOATS, (groups, outputs))
        if "g_idx" in parts:
            parts.check("g_idx", ("I32", "I64"), (inputs,))

        def load() -> Integers:
            zeros = unpack(parts.read("qzeros") + ones, bits).to(torch.int16)
            return Integers(
                bits=bits,
                group=group,
                quants=unpack(parts.read("qweight").t(), bits),
                scales=parts.read("scales").t(),
                zeros=zeros.t(),
                order=parts.read_order("g_idx", groups),
            )

        size = packed_bytes(
            (outputs, inputs),
            bits,
            group,
            parts["scales"].dtype,
            symmetric=settings.get("sym") is not False,
            ordered=bool(settings.get("desc_act")),
        )
        stored = StoredIntegers(f"GPTQ-{bits}", parts, load, size)
        return parts.stored_as("qweight", (outputs, inputs), stored)

    return read


GPTQ = Format(
    parts=("qweight", "qzeros", "scales", "g_idx"),
    fields=(
        Field("bits", ("whole number",), least=1, most=64, null=False, needed=True),
        Field("group_size", ("whole number",), least=-1, most="inner", null=False, needed=True),
        Field("desc_act", ("true or false",)),
        Field("sym", ("true or false",)),
        Field("is_marlin_format", ("true or false",)),
        *(Field(name, ("text",)) for name in ("checkpoint_format", "format", "pack_dtype")),
        Field("dynamic", ("object",)),
    ),
    refusal=_refusal,
    reader=_reader,
)
