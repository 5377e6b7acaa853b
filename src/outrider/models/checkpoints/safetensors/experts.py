"""Names of experts, and merged tensors of experts, which `transformers` 5 can write."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.values import JsonValue
from outrider.models.checkpoints.json_file import unreadable
from outrider.models.checkpoints.limits import CheckpointLimits
from outrider.models.checkpoints.tensors import TensorInfo, check_finite
from outrider.models.quantization.grouped import Grouped


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Names of the tensors of a layer with experts, after `model.layers.N.`.

    Attributes:
        block: the part that holds router and experts.
        parts: the matrices gate, up and down of one expert.
    """

    block: str = "mlp"
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")

    @property
    def router(self) -> str:
        """Name of the router's matrix."""
        return f"{self.block}.gate"

    def of(self, expert: int) -> tuple[str, str, str]:
        """Return the names of the matrices gate, up and down of one expert."""
        gate, up, down = (f"{self.block}.experts.{expert}.{part}" for part in self.parts)
        return gate, up, down


EXPERT_NAMES: dict[str, ExpertNames] = {
    "mixtral": ExpertNames("block_sparse_moe", ("w1", "w3", "w2")),
    "qwen3_moe": ExpertNames(),
}
"""`model_type` -> its names."""

_MERGED = re.compile(
    r"(?P<layer>model\.layers\.\d{1,6}\.)mlp\.(?P<part>gate\.weight|experts\.(?:gate_up|down)_proj)"
)
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One matrix of a merged tensor: its numbers lie together in the file; see `Stored`."""

    info: TensorInfo

    @property
    def kind(self) -> str:
        """The dtype of its numbers."""
        return self.info.dtype

    def read(self) -> Float[Tensor, "outputs inputs"]:
        """Return the float32 values."""
        info = self.info
        try:
            with info.file.open("rb") as stream:
                stream.seek(info.offset)
                raw = bytearray(stream.read(info.nbytes))
        except OSError as error:
            raise unreadable(info.file, error) from None
        numbers = torch.frombuffer(raw, dtype=_DTYPES[info.dtype]).view(info.shape)
        check_finite(numbers, info.name, info.file)
        return numbers.float()

    def grouped(self) -> Grouped | None:
        """Return None: the numbers are not integers."""
        return None


def with_experts(
    config: Mapping[str, JsonValue], tensors: dict[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Return the tensors with one for each matrix of each expert, by their original names.

    Merged tensors are `[experts, outputs, inputs]`, with the outputs of gate before those of up.
    Tensors in other shapes stay as they are.
    """
    names = EXPERT_NAMES.get(str(config.get("model_type")))
    if names is None or not any(name.endswith("experts.gate_up_proj") for name in tensors):
        return tensors
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        match = _MERGED.fullmatch(name)
        if match and match["part"] == "gate.weight":
            found[f"{match['layer']}{names.router}.weight"] = info
        elif match and _is_merged(info):
            found |= _split(info, match["layer"], names, fused="gate_up" in match["part"])
        else:
            found[name] = info
    return found


def _is_merged(info: TensorInfo) -> bool:
    known = info.dtype in _DTYPES and info.stored is None and len(info.shape) == 3
    return known and 0 < info.shape[0] <= CheckpointLimits.current().experts


def _split(
    info: TensorInfo, layer: str, names: ExpertNames, *, fused: bool
) -> dict[str, TensorInfo]:
    """Split a merged tensor; `fused` ones hold two matrices of each expert."""
    count, outputs, inputs = info.shape
    parts = 2 if fused else 1
    shape = (outputs // parts, inputs)
    nbytes = info.nbytes // max(math.prod(info.shape), 1) * math.prod(shape)
    found: dict[str, TensorInfo] = {}
    for expert in range(count):
        own = names.of(expert)
        for part, name in enumerate(own[:2] if fused else own[2:]):
            offset = info.offset + (expert * parts + part) * nbytes
            one = replace(info, shape=shape, offset=offset, nbytes=nbytes)
            found[f"{layer}{name}.weight"] = replace(one, stored=Slice(info=one))
    return found
