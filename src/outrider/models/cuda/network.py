"""Computes the decoder with static shapes: no shape depends on a value that the host must know.

Attention is written out. It reads a whole storage, most of which can hold stale rows of earlier
texts. Therefore scores of hidden slots are replaced, not added to, and values are made finite: NaN
or infinity in a hidden slot cannot reach a row.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from outrider.models.cuda.inputs import Inputs, Outputs
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.layers import ACTIVATION_FUNCTIONS, Hidden, feed_forward, rms_norm
from outrider.models.llama.rope import rotate
from outrider.models.llama.weights import DecoderWeights, LayerWeights

Stored = Float[Tensor, "kv_heads slots head_dim"]


class Network:
    """A model as a function on buffers."""

    def __init__(self, config: DecoderConfig, weights: DecoderWeights) -> None:
        self.config = config
        self._weights = weights
        self._dtype = weights.embed.dtype
        # float32 as in transformers; float64 models get float64 angles
        self._angles = torch.float64 if self._dtype == torch.float64 else torch.float32
        self._frequencies = config.rope.frequencies.to(weights.embed.device, self._angles)
        self._layers = [_Layer(i, layer, config) for i, layer in enumerate(weights.layers)]

    def read(self, inputs: Inputs, keys: Tensor, values: Tensor, outputs: Outputs) -> None:
        """Read the rows in `inputs`; write the requested ones to `outputs`.

        `keys` and `values` are those of a storage, `[layers, kv_heads, capacity + 1, head_dim]`;
        the new rows are written to them.
        """
        hidden = F.embedding(inputs.tokens, self._weights.embed)
        turns = self._turns(inputs.positions)
        seen = self._seen(inputs)
        for i, (own_keys, own_values) in enumerate(zip(keys, values, strict=True)):
            if i in outputs.states:
                outputs.states[i].copy_(hidden.index_select(0, inputs.take))
            hidden = self._layers[i](hidden, turns, inputs.slots, seen, own_keys, own_values)
        hidden = hidden.index_select(0, inputs.take)
        hidden = rms_norm(hidden, self._weights.norm, self.config.norm_eps)
        outputs.hidden.copy_(hidden)
        outputs.logits.copy_(self._weights.head(hidden))

    def _turns(self, positions: Int[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
        """Compute cosines and signed sines as in `RotaryTable`, but without a table."""
        angles = torch.outer(positions.to(self._angles), self._frequencies)
        amplitude = self.config.rope.amplitude
        cos, sin = angles.cos() * amplitude, angles.sin() * amplitude
        cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        return cos.to(self._dtype)[:, None], sin.to(self._dtype)[:, None]

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
        self._head_dim = config.head_dim
        self._eps = config.norm_eps
        self._activation = ACTIVATION_FUNCTIONS[config.activation]

    def __call__(
        self,
        hidden: Hidden,
        turns: tuple[Tensor, Tensor],
        slots: Int[Tensor, " rows"],
        seen: Mapping[int | None, Tensor],
        keys: Stored,
        values: Stored,
    ) -> Hidden:
        """Return the rows after this layer; write their keys and values to `slots`."""
        weights = self._weights
        normed = rms_norm(hidden, weights.input_norm, self._eps)
        queries, new_keys, new_values = self._project(normed, turns)
        keys.index_copy_(1, slots, new_keys.transpose(0, 1))
        values.index_copy_(1, slots, new_values.transpose(0, 1))
        visible = seen[self._window]
        capacity = visible.shape[1]
        attended = attend(queries, keys[:, :capacity], values[:, :capacity], visible)
        hidden = hidden + weights.output(attended)
        normed = rms_norm(hidden, weights.mlp_norm, self._eps)
        return hidden + feed_forward(weights, normed, self._activation)

    def _project(self, x: Hidden, turns: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute normed queries, keys and values with rotary embeddings, `[rows, heads,
        head_dim]`.
        """
        heads, kv_heads = self._heads
        packed = self._weights.qkv(x).view(len(x), heads + 2 * kv_heads, self._head_dim)
        turned, values = packed.split((heads + kv_heads, kv_heads), dim=1)
        if self._weights.qk_norm is not None:
            turned = F.rms_norm(turned, (self._head_dim,), eps=self._eps) * self._weights.qk_norm
        if self._rotary:
            turned = rotate(turned, *turns)
        queries, keys = turned.split((heads, kv_heads), dim=1)
        return queries, keys, values


def attend(
    queries: Float[Tensor, "rows heads head_dim"],
    keys: Stored,
    values: Stored,
    seen: Bool[Tensor, "rows slots"],
) -> Float[Tensor, "rows width"]:
    """Compute attention of each row over its visible slots, `width = heads * head_dim`.

    Query heads that share keys are stacked, so that keys and values are read once for the whole
    group. Scores are summed and normed in float32 at least.
    """
    rows, heads, head_dim = queries.shape
    kv_heads, slots, _ = keys.shape
    group = heads // kv_heads
    stacked = queries.view(rows, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    scores = stacked.reshape(kv_heads, group * rows, head_dim) @ keys.transpose(1, 2)
    wide = torch.promote_types(scores.dtype, torch.float32)
    scores = scores.view(kv_heads, group, rows, slots).to(wide) * head_dim**-0.5
    shares = scores.masked_fill_(~seen, -torch.inf).softmax(dim=-1).to(values.dtype)
    out = shares.view(kv_heads, group * rows, slots) @ values.nan_to_num()
    return out.view(kv_heads, group, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, -1)
