"""LoRA updates of all matrices in the layers of a frozen decoder, while they are trained."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from outrider.core.values import JsonValue
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.experts import Projection
from outrider.models.llama.lora import CONFIG, WEIGHTS, Update
from outrider.models.llama.weights import (
    LayerWeights,
    Linear,
    gate_up_names,
    order_of_rows,
    qkv_sizes,
)
from outrider.training.core.state import save_tensors, write_json


class LoraLinear(nn.Module):
    """`base(x) + scale * up(down(x))`; `up` begins as zero, so the result begins as `base(x)`.

    Args:
        base: the frozen matrix.
        rank: rows of `down`.
        scale: the factor of the update.
        generator: draws `down`.
    """

    def __init__(self, base: Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = base.weight.shape
        self.base, self.scale = base, scale
        drawn = torch.rand(rank, inputs, generator=generator) * 2 - 1
        self.down = nn.Parameter(drawn * math.sqrt(3 / inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """Apply the updated matrix to each row."""
        return self.base(x) + F.linear(F.linear(x, self.down), self.up) * self.scale


class LayerUpdates(nn.Module):
    """The layers of a decoder with an update of each matrix; experts have none.

    Args:
        layers: the frozen weights.
        rank: rank of the updates.
        alpha: the updates are multiplied by `alpha / rank`.
        seed: seed of the first updates.

    Attributes:
        layers: the weights with their updates.
        updates: the updates, in the order of the layers.
    """

    def __init__(self, layers: Sequence[LayerWeights], rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        self._rank, self._scale = rank, alpha / rank
        self._generator = torch.Generator().manual_seed(seed)
        self.updates = nn.ModuleList()
        self.layers = [self._updated(layer) for layer in layers]

    def _updated(self, layer: LayerWeights) -> LayerWeights:
        def updated(matrix: Projection | None) -> Projection | None:
            if not isinstance(matrix, Linear):  # experts are not tuned
                return matrix
            lora = LoraLinear(matrix, self._rank, self._scale, self._generator)
            self.updates.append(lora)
            return lora

        qkv, output = updated(layer.qkv), updated(layer.output)
        assert qkv is not None and output is not None  # every layer has both
        gate_up, down = updated(layer.gate_up), updated(layer.down)
        return replace(layer, qkv=qkv, output=output, gate_up=gate_up, down=down)

    def named(self, config: DecoderConfig) -> Iterator[tuple[str, Update]]:
        """Yield the update of each matrix as a checkpoint names it: `layers.0.mlp.down_proj`."""
        for index, weights in enumerate(self.layers):
            prefix = f"layers.{index}."
            matrices: list[tuple[Projection | None, dict[str, int], Tensor | None]] = [
                (weights.qkv, qkv_sizes(config), order_of_rows(config)),
                (weights.output, {"self_attn.o_proj": config.hidden_size}, None),
                (weights.gate_up, _gate_up(config), None),
                (weights.down, {"mlp.down_proj": config.hidden_size}, None),
            ]
            for matrix, sizes, order in matrices:
                if isinstance(matrix, LoraLinear):
                    yield from _split(matrix, prefix, sizes, order)


def _gate_up(config: DecoderConfig) -> dict[str, int]:
    names = gate_up_names(config)
    return dict.fromkeys(names, 2 * config.intermediate_size // len(names))


def _split(
    matrix: LoraLinear, prefix: str, sizes: dict[str, int], order: Tensor | None
) -> Iterator[tuple[str, Update]]:
    """Yield the updates of the matrices that were fused into one."""
    up = matrix.up.detach()
    if order is not None:
        stored = torch.empty_like(up)
        stored[order] = up
        up = stored
    for (name, _), part in zip(sizes.items(), up.split(list(sizes.values())), strict=True):
        yield prefix + name, Update(matrix.down.detach(), part.contiguous(), matrix.scale)


def write_adapter(
    files: Path, updates: dict[str, Update], target: str, rank: int, alpha: float
) -> None:
    """Write updates as an adapter in peft's format."""
    tensors = {
        f"base_model.model.model.{name}.lora_{side}.weight": matrix.contiguous().clone()
        for name, update in updates.items()
        for side, matrix in (("A", update.down), ("B", update.up))
    }
    save_tensors(files / WEIGHTS, tensors)
    adapter: dict[str, JsonValue] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": target,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in updates}),
        "bias": "none",
    }
    write_json(files / CONFIG, adapter)
