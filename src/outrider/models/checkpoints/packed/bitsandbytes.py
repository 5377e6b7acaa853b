"""The 4-bit types of bitsandbytes, nf4 and fp4 (Dettmers et al. 2023).

    weight                            two weights in an octet, the first in the upper half; the
                                      octets may be stored as numbers of any dtype
    weight.quant_map                  F32 [16]: the value of each integer
    weight.absmax                     F32 [blocks]: the scale of each block of weights
    weight.quant_state.bitsandbytes__nf4   JSON: shape, block size, ...

With double quantisation `absmax` holds integers of 8 bits, which a second map, a second scale for
each larger block and an offset make into scales. A block is no part of a row, and the values are
not equally spaced: `Grouped` cannot hold them, so these weights are decoded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.json_file import parse_object
from outrider.models.checkpoints.packed.parts import Format, Parts, Settings
from outrider.models.checkpoints.tensors import TensorInfo
from outrider.models.quantization.grouped import Grouped

_TYPES = ("nf4", "fp4")
_STATE = "weight.quant_state.bitsandbytes__"
_LEVELS, _NESTED_LEVELS = 16, 256

_STATE_FIELDS = (
    Field(
        "shape",
        ("whole number",),
        least=1,
        most="vocabulary",
        levels=(1,),
        null=False,
        needed=True,
    ),
    Field("blocksize", ("whole number",), least=1, most="inner", null=False, needed=True),
)
_NESTED_FIELDS = (
    Field("nested_blocksize", ("whole number",), least=1, most="inner", null=False, needed=True),
    Field("nested_offset", ("number",), null=False, needed=True),
)


def _refusal(settings: Settings) -> str | None:
    if not (settings.get("load_in_4bit") or settings.get("_load_in_4bit")):
        return "weights of 8 bits (bitsandbytes) are not supported; supported: nf4, fp4"
    kind = settings.get("bnb_4bit_quant_type") or "fp4"
    if kind not in _TYPES:
        return f"weights of type {kind!r:.40} (bitsandbytes) are not supported; supported: nf4, fp4"
    return None


def _reader(settings: Settings, modules: Sequence[str], file: str) -> Callable[[Parts], TensorInfo]:
    return _stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A `Stored` matrix in blocks of consecutive weights.

    Attributes:
        kind: `NF4` or `FP4`.
        parts: its tensors.
        shape: outputs and inputs.
        block: weights that share a scale.
        nested: scales that share a scale, and their offset; None if scales are plain numbers.
    """

    kind: str
    parts: Parts
    shape: tuple[int, int]
    block: int
    nested: tuple[int, float] | None

    @property
    def packed_bytes(self) -> int | None:
        """None: kernels do not read these numbers."""
        return None

    def read(self) -> Float[Tensor, "outputs inputs"]:
        """Return the float32 weights."""
        octets = self.parts.read_octets("weight")
        nibbles = torch.stack((octets >> 4, octets & 15), dim=1).flatten()
        values = self.parts.read("weight.quant_map").flatten()[nibbles.int()]
        count = math.prod(self.shape)
        scales = self._scales().repeat_interleave(self.block)[:count]
        return self.parts.finite((values[:count] * scales).view(self.shape))

    def grouped(self) -> Grouped | None:
        """Return None: the levels are not equally spaced."""
        return None

    def _scales(self) -> Float[Tensor, " blocks"]:
        absmax = self.parts.read("weight.absmax").flatten()
        if self.nested is None:
            return absmax
        block, offset = self.nested
        outer = self.parts.read("weight.nested_absmax").flatten().repeat_interleave(block)
        levels = self.parts.read("weight.nested_quant_map").flatten()
        return levels[absmax.int()] * outer[: len(absmax)] + offset


def _stored(parts: Parts) -> TensorInfo:
    kind = next((kind for kind in _TYPES if _STATE + kind in parts), _TYPES[0])
    part = _STATE + kind
    where = f"{parts[part].file}: {parts[part].name}"
    state = parse_object(parts.read_small(part), where)
    check_fields(where, state, _STATE_FIELDS)
    if len(state["shape"]) != 2:
        raise parts.unfit(part, f"has shape {state['shape']!r:.60}, expected two axes")
    shape: tuple[int, int] = (state["shape"][0], state["shape"][1])
    count, block = math.prod(shape), state["blocksize"]
    octets = -(-count // 2)
    if parts["weight"].nbytes != octets:
        raise parts.unfit(
            "weight",
            f"has {parts['weight'].nbytes} bytes, expected {octets} for shape {list(shape)}",
        )
    blocks = -(-count // block)
    parts.check("weight.quant_map", ("F32",), (_LEVELS,))
    nested = None
    if "weight.nested_absmax" in parts:
        check_fields(where, state, _NESTED_FIELDS)
        nested = (state["nested_blocksize"], float(state["nested_offset"]))
        parts.check("weight.absmax", ("U8",), (blocks,))
        parts.check("weight.nested_absmax", ("F32",), (-(-blocks // nested[0]),))
        parts.check("weight.nested_quant_map", ("F32",), (_NESTED_LEVELS,))
    else:
        parts.check("weight.absmax", ("F32",), (blocks,))
    stored = Blocks(kind=kind.upper(), parts=parts, shape=shape, block=block, nested=nested)
    return parts.stored_as("weight", shape, stored)


BITSANDBYTES = Format(
    parts=(
        "weight.absmax",
        "weight.quant_map",
        "weight.nested_absmax",
        "weight.nested_quant_map",
        *(_STATE + kind for kind in _TYPES),
    ),
    fields=(
        *(Field(name, ("true or false",)) for name in ("load_in_4bit", "_load_in_4bit")),
        Field("bnb_4bit_quant_type", ("text",)),
    ),
    refusal=_refusal,
    reader=_reader,
)
