"""A frozen target with LoRA updates and a pad, which are trained."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from outrider.core.types import BoolArray, IntArray
from outrider.models.llama.attention import attend
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.experts import Projection
from outrider.models.llama.layers import (
    Batch,
    DecoderLayer,
    Hidden,
    entering,
    logits_of,
    rms_norm,
)
from outrider.models.llama.lora import Update
from outrider.models.llama.rope import RotaryTable
from outrider.models.llama.weights import (
    LayerWeights,
    Linear,
    gate_up_names,
    order_of_rows,
    qkv_sizes,
)
from outrider.training.lud.units import NONE, PAD, Sample

_PAD_RATE = 10.0
"""The pad learns faster than the updates by this factor: its parameter is divided by it."""


@dataclass(frozen=True, slots=True)
class _Texts(Batch):
    """The rows of some texts, and for each window the scores of the rows that each row reads."""

    rows: Sequence[slice] = ()
    masks: Sequence[dict[int | None, Tensor]] = ()


class _TextLayer(DecoderLayer):
    """A layer that reads whole texts, without a cache."""

    def _attention(self, x: Hidden, batch: Batch) -> Hidden:
        assert isinstance(batch, _Texts)
        queries, keys, values = self._project(x, batch)
        out = [
            attend(
                queries[rows],
                keys[rows].transpose(0, 1),
                values[rows].transpose(0, 1),
                masks[self.window],
                self.config.attention_scale,
                self.config.scales.attention_cap,
            )
            for rows, masks in zip(batch.rows, batch.masks, strict=True)
        ]
        return self.weights.output(torch.cat(out))


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


class Tuned(nn.Module):
    """A target of which LoRA updates of all matrices in layers, and one embedding, are trained.

    Args:
        target: the target, in float32; it stays as it is.
        rank: rank of the updates.
        alpha: the updates are multiplied by `alpha / rank`.
        seed: seed of the first updates.

    Attributes:
        target: the frozen target.
    """

    def __init__(self, target: Decoder, rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        self.target = target
        self._scale, self._generator = alpha / rank, torch.Generator().manual_seed(seed)
        self.updates = nn.ModuleList()
        config = target.config
        self._layers = [
            _TextLayer(i, self._with_updates(layer, rank), config)
            for i, layer in enumerate(target.weights.layers)
        ]
        self._pad = nn.Parameter(target.weights.embed.mean(0) / _PAD_RATE)
        self._rotary = RotaryTable(config.rope, target.dtype, target.device)
        local = config.local_rope
        self._local_rotary = local and RotaryTable(local, target.dtype, target.device)

    @property
    def pad(self) -> Float[Tensor, " hidden"]:
        """The embedding of a pad."""
        return self._pad * _PAD_RATE

    def logits(self, samples: Sequence[Sample]) -> Float[Tensor, "labels vocab"]:
        """Return the logits of the rows that have labels, in order."""
        ids = np.concatenate([sample.ids for sample in samples])
        x = self.target.embed(np.maximum(ids, 0))
        x = torch.where(torch.from_numpy(ids == PAD)[:, None], self.pad, x)
        x, batch = entering(x, self.target.config), self._batch(samples)
        for layer in self._layers:
            x = layer(x, batch)
        labels = np.concatenate([sample.labels for sample in samples])
        x = x[torch.from_numpy(labels != NONE)]
        weights, config = self.target.weights, self.target.config
        return logits_of(rms_norm(x, weights.norm, config.norm_eps), weights, config)

    def loss(self, samples: Sequence[Sample]) -> Float[Tensor, ""]:
        """Return the mean cross-entropy of all labels, in nats."""
        labels = np.concatenate([sample.labels for sample in samples])
        return F.cross_entropy(self.logits(samples), torch.from_numpy(labels[labels != NONE]))

    def named_updates(self) -> Iterator[tuple[str, Update]]:
        """Yield the update of each matrix as a checkpoint names it: `layers.0.mlp.down_proj`."""
        config = self.target.config
        for layer in self._layers:
            prefix, weights = f"layers.{layer.index}.", layer.weights
            named: list[tuple[Projection | None, dict[str, int], Tensor | None]] = [
                (weights.qkv, qkv_sizes(config), order_of_rows(config)),
                (weights.output, {"self_attn.o_proj": config.hidden_size}, None),
                (weights.gate_up, _gate_up(config), None),
                (weights.down, {"mlp.down_proj": config.hidden_size}, None),
            ]
            for matrix, sizes, order in named:
                if isinstance(matrix, LoraLinear):
                    yield from _split(matrix, prefix, sizes, order)

    def _with_updates(self, layer: LayerWeights, rank: int) -> LayerWeights:
        def updated(matrix: Projection | None) -> Projection | None:
            if not isinstance(matrix, Linear):  # experts are not tuned
                return matrix
            lora = LoraLinear(matrix, rank, self._scale, self._generator)
            self.updates.append(lora)
            return lora

        qkv, output = updated(layer.qkv), updated(layer.output)
        assert qkv is not None and output is not None  # every layer has both
        gate_up, down = updated(layer.gate_up), updated(layer.down)
        return replace(layer, qkv=qkv, output=output, gate_up=gate_up, down=down)

    def _batch(self, samples: Sequence[Sample]) -> _Texts:
        positions = np.concatenate([sample.positions for sample in samples])
        at, bound = torch.from_numpy(positions), int(positions.max()) + 1
        ends = np.cumsum([len(sample.ids) for sample in samples]).tolist()
        windows = set(self.target.config.windows)
        return _Texts(
            parts=(),
            turns=self._rotary.at(at, bound),
            local_turns=self._local_rotary and self._local_rotary.at(at, bound),
            rows=[slice(end - len(s.ids), end) for end, s in zip(ends, samples, strict=True)],
            masks=[{one: _scores(sample, one) for one in windows} for sample in samples],
        )


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


def _scores(sample: Sample, window: int | None) -> Float[Tensor, "rows rows"]:
    seen: BoolArray = sample.seen
    if window is not None:
        places: IntArray = sample.positions
        seen = seen & (places[:, None] - places[None] < window)
    return torch.zeros(seen.shape).masked_fill_(torch.from_numpy(~seen), -torch.inf)
