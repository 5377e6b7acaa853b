"""A frozen target with a coprocessor that is trained: its latents, and the loss after them.

The text itself is read once by the frozen target, without gradients. Two passes follow over the
rows of all traces: the coprocessor reads the soft tokens and writes latents; the frozen target
reads the latents and the next tokens. Gradients pass through the second one to the latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from outrider.core.types import Prompt
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.caches.narrowing import narrowed
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
from outrider.models.llama.rope import RotaryTable
from outrider.models.llama.weights import LayerWeights
from outrider.training.coprocessor.traces import Traces
from outrider.training.core.lora import LayerUpdates

_SOFT_RATE = 10.0
"""Soft tokens learn faster than the updates by this factor: their parameter is divided by it."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadText:
    """Keys and values of the frozen target, `[layers, kv_heads, tokens, head_dim]`."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class _Beside(Batch):
    """Rows beside the caches of some texts.

    Attributes:
        texts: the keys and values that they read.
        rows: the rows of each text.
        masks: for each text and window, the scores of what each row reads.
    """

    texts: Sequence[ReadText] = ()
    rows: Sequence[slice] = ()
    masks: Sequence[dict[int | None, Tensor]] = ()


class _BesideLayer(DecoderLayer):
    """A layer that reads caches and its own rows, and writes to no cache."""

    def _attention(self, x: Hidden, batch: Batch) -> Hidden:
        assert isinstance(batch, _Beside)
        queries, keys, values = self._project(x, batch)
        out = [
            attend(
                queries[rows],
                torch.cat((text.keys[self.index], keys[rows].transpose(0, 1)), dim=1),
                torch.cat((text.values[self.index], values[rows].transpose(0, 1)), dim=1),
                masks[self.window],
                self.config.attention_scale,
                self.config.scales.attention_cap,
            )
            for text, rows, masks in zip(batch.texts, batch.rows, batch.masks, strict=True)
        ]
        return self.weights.output(torch.cat(out))


class Augmenter(nn.Module):
    """A target of which soft tokens and the LoRA updates that read them are trained.

    Args:
        target: the target, in float32; it stays as it is.
        latents: number of soft tokens, and of latents.
        rank: rank of the updates of all matrices in layers.
        alpha: the updates are multiplied by `alpha / rank`.
        seed: seed of the first soft tokens and updates.

    Attributes:
        target: the frozen target.
        updates: the updates of its layers.
    """

    def __init__(self, target: Decoder, latents: int, rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        self.target, config = target, target.config
        self.updates = LayerUpdates(target.weights.layers, rank, alpha, seed)
        self._frozen = self._layers(target.weights.layers)
        self._coprocessor = self._layers(self.updates.layers)
        embed, norm = target.weights.embed, target.weights.norm
        generator = torch.Generator().manual_seed(seed)
        first = torch.randperm(len(embed), generator=generator)[:latents]
        self._soft = nn.Parameter(target.embed(first.tolist()) / _SOFT_RATE)
        # The last states are many times as large as input embeddings.
        scale = embed.float().pow(2).mean().sqrt() * config.scales.embedding
        if norm is not None:
            scale = scale / norm.float().pow(2).mean().sqrt()
        self._scale = nn.Parameter(scale.detach().reshape(1).log())
        self._rotary = RotaryTable(config.rope, target.dtype, target.device)
        local = config.local_rope
        self._local_rotary = local and RotaryTable(local, target.dtype, target.device)

    def _layers(self, weights: Sequence[LayerWeights]) -> list[_BesideLayer]:
        return [_BesideLayer(i, one, self.target.config) for i, one in enumerate(weights)]

    @property
    def soft(self) -> Float[Tensor, "latents hidden"]:
        """The embeddings that the coprocessor reads."""
        return self._soft * _SOFT_RATE

    @property
    def scale(self) -> Float[Tensor, " 1"]:
        """The factor of the coprocessor's last states in latents."""
        return self._scale.exp()

    def read(self, texts: Sequence[Traces]) -> list[ReadText]:
        """Read the texts with the frozen target, up to their last points."""
        prompts = [Prompt(token_ids=tuple(text.ids[: text.length + 1].tolist())) for text in texts]
        name = self.target.info.name
        stores = [narrowed(c, DecoderCache, name).storage for c in self.target.start(prompts)]
        return [
            ReadText(
                store.keys[:, :, : text.length].clone(), store.values[:, :, : text.length].clone()
            )
            for store, text in zip(stores, texts, strict=True)
        ]

    def latents(
        self, texts: Sequence[Traces], read: Sequence[ReadText]
    ) -> Float[Tensor, "traces latents hidden"]:
        """Return the latents of all traces of the texts, in order."""
        soft = self.soft
        traces = sum(len(text.points) for text in texts)
        rows = soft.expand(traces, -1, -1).reshape(-1, soft.shape[1])
        states = self._through(self._coprocessor, rows, texts, read, len(soft))
        return (states * self.scale).view(traces, len(soft), -1)

    def losses(self, texts: Sequence[Traces]) -> Float[Tensor, "traces ahead"]:
        """Return the cross-entropy of each token after the latents of each trace, in nats."""
        read = self.read(texts)
        count, ahead = texts[0].latents, texts[0].ahead
        ids = np.concatenate([text.tokens for text in texts])
        rows = self.target.embed(ids.reshape(-1)).view(len(ids), ahead, -1)
        if count:
            rows = torch.cat((self.latents(texts, read), rows), dim=1)
        states = self._through(self._frozen, rows.flatten(0, 1), texts, read, count + ahead)
        states = states.view(len(ids), count + ahead, -1)[:, count:]
        logits = logits_of(states.flatten(0, 1), self.target.weights, self.target.config)
        labels = torch.from_numpy(np.concatenate([text.labels for text in texts]).reshape(-1))
        return F.cross_entropy(logits, labels, reduction="none").view(len(ids), ahead)

    def _through(
        self,
        layers: Sequence[_BesideLayer],
        rows: Float[Tensor, "rows hidden"],
        texts: Sequence[Traces],
        read: Sequence[ReadText],
        each: int,
    ) -> Float[Tensor, "rows hidden"]:
        """Return the last states of `each` rows of every trace."""
        config = self.target.config
        positions = np.concatenate([text.positions(each) for text in texts])
        at, bound = torch.from_numpy(positions), int(positions.max()) + 1
        ends = np.cumsum([len(text.points) * each for text in texts]).tolist()
        windows = set(config.windows)
        batch = _Beside(
            parts=(),
            turns=self._rotary.at(at, bound),
            local_turns=self._local_rotary and self._local_rotary.at(at, bound),
            texts=read,
            rows=[slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)],
            masks=[{one: _scores(text, each, one) for one in windows} for text in texts],
        )
        x = entering(rows, config)
        for layer in layers:
            x = layer(x, batch)
        return rms_norm(x, self.target.weights.norm, config.norm_eps)


def _scores(text: Traces, rows: int, window: int | None) -> Float[Tensor, "rows slots"]:
    seen = text.seen(rows, window)
    return torch.zeros(seen.shape).masked_fill_(torch.from_numpy(~seen), -torch.inf)
