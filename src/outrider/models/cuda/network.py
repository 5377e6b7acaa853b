"""Computes the decoder with static shapes: no shape depends on a value that the host must know.

Attention is written out. It reads a whole storage, most of which can hold stale rows of earlier
texts. Therefore scores of hidden slots are replaced, not added to, and values are made finite: NaN
or infinity in a hidden slot cannot reach a row.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from outrider.models.cuda.inputs import Inputs, Outputs
from outrider.models.llama.attention import soft_cap
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.layers import (
    ACTIVATION_FUNCTIONS,
    Hidden,
    Turns,
    added,
    embedded,
    entering,
    logits_of,
    norm_heads,
    rms_norm,
)
from outrider.models.llama.rope import rotate
from outrider.models.llama.rope_scaling import Rope
from outrider.models.llama.weights import DecoderWeights, LayerWeights

Stored = Float[Tensor, "kv_heads slots head_dim"]


class Network:
    """A model as a function on buffers."""

    def __init__(self, config: DecoderConfig, weights: DecoderWeights) -> None:
        self.config = config
        self._weights = weights
        self._dtype = weights.embed.dtype
        device = weights.embed.device
        self._ropes = [_on(config.rope, device)]
        if config.local_rope is not None:
            self._ropes.append(_on(config.local_rope, device))
        self._layers = [_Layer(i, layer, config) for i, layer in enumerate(weights.layers)]

    def read(self, inputs: Inputs, keys: Tensor, values: Tensor, outputs: Outputs) -> None:
        """Read the rows in `inputs`; write the requested ones to `outputs`.

        `keys` and `values` are those of a storage, `[layers, kv_heads, capacity + 1, head_dim]`;
        the new rows are written to them.
        """
        hidden = entering(embedded(inputs.tokens, self._weights, self.config), self.config)
        turns = [self._turns(rope, inputs.positions) for rope in self._ropes]
        seen = self._seen(inputs)
        for i, (own_keys, own_values) in enumerate(zip(keys, values, strict=True)):
            if i in outputs.states:
                outputs.states[i].copy_(hidden.index_select(0, inputs.take))
            own_turns = turns[self.config.is_local(i)]
            hidden = self._layers[i](hidden, own_turns, inputs.slots, seen, own_keys, own_values)
        hidden = hidden.index_select(0, inputs.take)
        hidden = rms_norm(hidden, self._weights.norm, self.config.norm_eps)
        outputs.hidden.copy_(hidden)
        outputs.logits.copy_(logits_of(hidden, self._weights, self.config))

    def _turns(self, rope: Rope, positions: Int[Tensor, " rows"]) -> Turns:
        """Compute cosines and signed sines as in `RotaryTable`, but without a table."""
        cos, sin = rope.turns(positions, self._dtype)
        return cos[:, None], sin[:, None]

    def _seen(self, inputs: Inputs) -> dict[int | None, Bool[Tensor, "rows slots"]]:
        """Return the slots visible to each row for each window of the model; at least one each."""
        slots = torch.arange(inputs.capacity, device=inputs.slots.device)
        seen = (slots < inputs.limits[:, None]) | inputs.extra[:, : inputs.capacity]
        behind = inputs.positions[:, None] - inputs.places[: inputs.capacity]
        return {
            window: seen if window is None else seen & (behind < window)
            for window in dict.fromkeys(self.config.windows)
        }


class _Layer:
    """Attention and a gated MLP; each reads the normed rows, and its result is added to the
    rows.
    """

    def __init__(self, index: int, weights: LayerWeights, config: DecoderConfig) -> None:
        self._weights = weights
        self._window = config.windows[index]
        self._rotary = config.rotary[index]
        self._heads = (config.num_heads, config.num_kv_heads)
        self._config = config
        self._activation = ACTIVATION_FUNCTIONS[config.activation]

    def __call__(
        self,
        hidden: Hidden,
        turns: Turns,
        slots: Int[Tensor, " rows"],
        seen: Mapping[int | None, Tensor],
        keys: Stored,
        values: Stored,
    ) -> Hidden:
        """Return the rows after this layer; write their keys and values to `slots`."""
        weights, config = self._weights, self._config
        normed = rms_norm(hidden, weights.input_norm, config.norm_eps)
        queries, new_keys, new_values = self._project(normed, turns)
        keys.index_copy_(1, slots, new_keys.transpose(0, 1))
        values.index_copy_(1, slots, new_values.transpose(0, 1))
        visible = seen[self._window]
        capacity = visible.shape[1]
        attended = attend(
            queries,
            keys[:, :capacity],
            values[:, :capacity],
            visible,
            config.attention_scale,
            config.scales.attention_cap,
        )
        hidden = added(hidden, weights.output(attended), weights.output_norm, config)
        normed = rms_norm(hidden, weights.mlp_norm, config.norm_eps)
        gate, up = weights.gate_up(normed).chunk(2, dim=-1)
        return added(hidden, weights.down(self._activation(gate) * up), weights.down_norm, config)

    def _project(self, x: Hidden, turns: Turns) -> tuple[Tensor, Tensor, Tensor]:
        """Compute normed queries, keys and values with rotary embeddings, `[rows, heads,
        head_dim]`.
        """
        heads, kv_heads = self._heads
        packed = self._weights.qkv(x).view(len(x), heads + 2 * kv_heads, self._config.head_dim)
        turned, values = packed.split((heads + kv_heads, kv_heads), dim=1)
        if self._weights.qk_norm is not None:
            turned = norm_heads(turned, self._weights.qk_norm, self._config)
        if self._rotary:
            turned = rotate(turned, *turns)
        queries, keys = turned.split((heads, kv_heads), dim=1)
        return queries, keys, values


def attend(
    queries: Float[Tensor, "rows heads head_dim"],
    keys: Stored,
    values: Stored,
    seen: Bool[Tensor, "rows slots"],
    scale: float,
    cap: float | None = None,
) -> Float[Tensor, "rows width"]:
    """Compute attention of each row over its visible slots, `width = heads * head_dim`.

    Query heads that share keys are stacked, so that keys and values are read once for the whole
    group. Scores are summed and normed in float32 at least, multiplied by `scale` and bounded by
    the soft cap `cap`.
    """
    rows, heads, head_dim = queries.shape
    kv_heads, slots, _ = keys.shape
    group = heads // kv_heads
    stacked = queries.view(rows, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    scores = stacked.reshape(kv_heads, group * rows, head_dim) @ keys.transpose(1, 2)
    wide = torch.promote_types(scores.dtype, torch.float32)
    scores = scores.view(kv_heads, group, rows, slots).to(wide) * scale
    scores = scores if cap is None else soft_cap(scores, cap)
    shares = scores.masked_fill_(~seen, -torch.inf).softmax(dim=-1).to(values.dtype)
    out = shares.view(kv_heads, group * rows, slots) @ values.nan_to_num()
    return out.view(kv_heads, group, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, -1)


def _on(rope: Rope, device: torch.device) -> Rope:
    """Return the rotary embedding with its frequencies on a device."""
    return replace(rope, frequencies=rope.frequencies.to(device))
