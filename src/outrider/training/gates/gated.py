"""A frozen decoder whose KV heads mix full and local attention, with gradients to the mix alone.

The output of a KV head is `a * full + (1 - a) * local`, where *local* attention reads the first
tokens of a text (*sinks*) and the most recent ones (RLKV, arXiv 2510.08525; DuoAttention, Xiao et
al. 2024, arXiv 2410.10819).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.errors import ContextError
from outrider.models.llama.attention import soft_cap
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.layers import (
    Batch,
    DecoderLayer,
    Hidden,
    embedded,
    entering,
    logits_of,
    rms_norm,
)
from outrider.models.llama.rope import RotaryTable

GateValues = Float[Tensor, "layers kv_heads"]
Ids = Int[Tensor, "texts tokens"]
Scores = Float[Tensor, "rows slots"]
"""0, or minus infinity where a row does not read a slot."""


@dataclass(slots=True)
class TextCache:
    """Keys and values of texts of equal length.

    Attributes:
        length: tokens of each text that were read.
        layers: `[texts, kv_heads, tokens, head_dim]` keys and values of each layer.
    """

    length: int = 0
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def repeated(self, times: int) -> "TextCache":
        """Return a cache in which each text stands `times` times in a row."""
        pairs = {
            index: (keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0))
            for index, (keys, values) in self.layers.items()
        }
        return TextCache(self.length, pairs)


@dataclass(frozen=True, slots=True)
class _Texts(Batch):
    """Texts of equal length, and for each window the scores of full and of local attention."""

    count: int = 0
    gates: GateValues = field(default_factory=lambda: torch.empty(0, 0))
    masks: dict[int | None, tuple[Scores, Scores]] = field(default_factory=dict)
    cache: TextCache | None = None


class _GatedLayer(DecoderLayer):
    """A layer whose KV heads mix full and local attention."""

    def _attention(self, x: Hidden, batch: Batch) -> Hidden:
        assert isinstance(batch, _Texts)
        queries, keys, values = (
            part.view(batch.count, -1, *part.shape[1:]).transpose(1, 2)
            for part in self._project(x, batch)
        )
        if batch.cache is not None:
            if self.index in batch.cache.layers:
                before = batch.cache.layers[self.index]
                keys = torch.cat((before[0], keys), dim=2)
                values = torch.cat((before[1], values), dim=2)
            batch.cache.layers[self.index] = keys, values
        full, local = (self._read(queries, keys, values, mask) for mask in batch.masks[self.window])
        group = self.config.num_heads // self.config.num_kv_heads
        gates = batch.gates[self.index].repeat_interleave(group)[:, None, None]
        # Exact at 0 and at 1, and where both are equal; a sum of products is not.
        mixed = torch.lerp(local, full, gates.expand_as(full))
        return self.weights.output(mixed.transpose(1, 2).reshape(len(x), -1))

    def _read(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Scores) -> Tensor:
        config = self.config
        cap, scale = config.scales.attention_cap, config.attention_scale
        grouped = config.num_heads > config.num_kv_heads
        if cap is None:
            return F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=scale, enable_gqa=grouped
            )
        group = config.num_heads // config.num_kv_heads
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        scores = soft_cap(queries @ keys.transpose(2, 3) * scale, cap) + mask
        return scores.softmax(dim=-1) @ values


class Gated:
    """A frozen decoder with one gate for each layer and KV head.

    Args:
        target: the decoder, in float32; it stays as it is.
        sinks: first tokens of a text that local attention reads.
        recent: most recent tokens that local attention reads, the current one included.

    Attributes:
        target: the decoder.
        sinks: first tokens that local attention reads.
        recent: most recent tokens that local attention reads.
    """

    def __init__(self, target: Decoder, sinks: int, recent: int) -> None:
        self.target, self.sinks, self.recent = target, sinks, recent
        config = target.config
        self._layers = [
            _GatedLayer(i, layer, config) for i, layer in enumerate(target.weights.layers)
        ]
        self._rotary = RotaryTable(config.rope, target.dtype, target.device)
        local = config.local_rope
        self._local_rotary = local and RotaryTable(local, target.dtype, target.device)

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and KV heads: the shape of the gates."""
        return self.target.config.num_layers, self.target.config.num_kv_heads

    def hidden(
        self, ids: Ids, gates: GateValues, cache: TextCache | None = None
    ) -> Float[Tensor, "texts tokens hidden"]:
        """Return the final normed states of texts of equal length.

        Args:
            ids: the tokens.
            gates: 1: the head reads the whole text, 0: it reads sinks and recent tokens.
            cache: what these texts have read before; the tokens are added to it.

        Raises:
            ContextError: a text does not fit the window.
        """
        weights, config = self.target.weights, self.target.config
        start = 0 if cache is None else cache.length
        if (end := start + ids.shape[1]) > self.target.info.context_length:
            raise ContextError(
                f"{end} tokens do not fit the window of {self.target.info.name}",
                hint=f"Give texts of at most {self.target.info.context_length} tokens",
            )
        x = entering(embedded(ids.reshape(-1), weights, config), config)
        batch = self._batch(len(ids), start, end, gates, cache)
        for layer in self._layers:
            x = layer(x, batch)
        if cache is not None:
            cache.length = end
        return rms_norm(x, weights.norm, config.norm_eps).view(*ids.shape, -1)

    def logits(self, states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocab"]:
        """Apply the head to final normed states."""
        return logits_of(states, self.target.weights, self.target.config)

    @torch.no_grad()
    def write(self, prompts: Ids, gates: GateValues, tokens: int) -> Ids:
        """Return `[prompts, tokens]`: the most likely tokens after prompts of equal length.

        Args:
            prompts: the prompts.
            gates: see `hidden`.
            tokens: tokens of each continuation.

        Raises:
            ContextError: a text does not fit the window.
        """
        cache, found = TextCache(), list[Tensor]()
        read = prompts
        for _ in range(tokens):
            read = self.logits(self.hidden(read, gates, cache)[:, -1]).argmax(-1, keepdim=True)
            found.append(read)
        return torch.cat(found, dim=1)

    def sample(
        self,
        prompts: Ids,
        gates: GateValues,
        tokens: int,
        samples: int,
        temperature: float,
        generator: torch.Generator,
    ) -> tuple[Ids, Float[Tensor, "texts tokens"]]:
        """Return sampled continuations, those of one prompt in a row, and the logarithms of their
        probabilities, which have gradients to the gates.

        A prompt is read once for all of its samples.

        Args:
            prompts: prompts of equal length.
            gates: see `hidden`.
            tokens: tokens of each continuation.
            samples: continuations of each prompt.
            temperature: of the samples.
            generator: draws them.

        Raises:
            ContextError: a text does not fit the window.
        """
        cache, found, chances = TextCache(), list[Tensor](), list[Tensor]()
        states = self.hidden(prompts, gates, cache)[:, -1].repeat_interleave(samples, 0)
        cache = cache.repeated(samples)
        for place in range(tokens):
            if place:
                states = self.hidden(found[-1], gates, cache)[:, -1]
            logs = (self.logits(states) / temperature).log_softmax(-1)
            found.append(torch.multinomial(logs.detach().exp(), 1, generator=generator))
            chances.append(logs.gather(1, found[-1]))
        return torch.cat(found, dim=1), torch.cat(chances, dim=1)

    def _batch(
        self, count: int, start: int, end: int, gates: GateValues, cache: TextCache | None
    ) -> _Texts:
        at = torch.arange(start, end).repeat(count)
        return _Texts(
            parts=(),
            turns=self._rotary.at(at, end),
            local_turns=self._local_rotary and self._local_rotary.at(at, end),
            count=count,
            gates=gates,
            masks=dict(self._masks(start, end)),
            cache=cache,
        )

    def _masks(self, start: int, end: int) -> Iterator[tuple[int | None, tuple[Scores, Scores]]]:
        rows, slots = torch.arange(start, end)[:, None], torch.arange(end)[None]
        seen = slots <= rows
        near = (slots < self.sinks) | (rows - slots < self.recent)
        for window in set(self.target.config.windows):
            inside = seen if window is None else seen & (rows - slots < window)
            yield window, (_scores(inside), _scores(inside & near))


def _scores(seen: Tensor) -> Scores:
    return torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
