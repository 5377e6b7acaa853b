"""A frozen target with LoRA updates and a pad, which are trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from outrider.core.types import BoolArray, IntArray
from outrider.models.llama.attention import attend
from outrider.models.llama.decoder import Decoder
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
from outrider.training.core.lora import LayerUpdates
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
        config = target.config
        self._updated = LayerUpdates(target.weights.layers, rank, alpha, seed)
        self._layers = [
            _TextLayer(i, layer, config) for i, layer in enumerate(self._updated.layers)
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
        return self._updated.named(self.target.config)

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


def _scores(sample: Sample, window: int | None) -> Float[Tensor, "rows rows"]:
    seen: BoolArray = sample.seen
    if window is not None:
        places: IntArray = sample.positions
        seen = seen & (places[:, None] - places[None] < window)
    return torch.zeros(seen.shape).masked_fill_(torch.from_numpy(~seen), -torch.inf)
