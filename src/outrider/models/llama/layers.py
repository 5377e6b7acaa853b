"""One layer of a Llama-shaped decoder over the packed rows of a ragged batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from outrider.models.caches.eviction.storage import CompressedStorage
from outrider.models.llama.attention import Part, attend, soft_cap
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.rope import rotate
from outrider.models.llama.weights import DecoderWeights, LayerWeights

Hidden = Float[Tensor, "tokens hidden"]

Turns = tuple[Float[Tensor, "tokens 1 head_dim"], Float[Tensor, "tokens 1 head_dim"]]
"""Cosines and signed sines."""

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Data that all layers of one forward share.

    Attributes:
        parts: the texts, in the order of their packed rows.
        turns: cosines and signed sines for the position of each row.
        local_turns: those of layers that have a rotary embedding of their own.
    """

    parts: Sequence[Part]
    turns: Turns
    local_turns: Turns | None = None


class DecoderLayer:
    """Attention and a gated MLP; each reads the normed rows, and its result is added to the rows.

    Either can be left out (`attends`, `feeds`).
    """

    def __init__(
        self,
        index: int,
        weights: LayerWeights,
        config: DecoderConfig,
        *,
        attends: bool = True,
        feeds: bool = True,
    ) -> None:
        self.index = index
        self.attends, self.feeds = attends, feeds
        self.weights = weights
        self.window = config.windows[index]
        self.rotary = config.rotary[index]
        self.local = config.is_local(index)
        self.config = config
        self._heads = (config.num_heads, config.num_kv_heads, config.head_dim)
        self._activation = ACTIVATION_FUNCTIONS[config.activation]

    def __call__(self, hidden: Hidden, batch: Batch) -> Hidden:
        """Return the rows after this layer; write their keys and values to the caches."""
        weights, config = self.weights, self.config
        if self.attends:
            normed = rms_norm(hidden, weights.input_norm, config.norm_eps)
            hidden = added(hidden, self._attention(normed, batch), weights.output_norm, config)
        if self.feeds:
            normed = rms_norm(hidden, weights.mlp_norm, config.norm_eps)
            hidden = added(hidden, self._mlp(normed), weights.down_norm, config)
        return hidden

    def _mlp(self, x: Hidden) -> Hidden:
        return feed_forward(self.weights, x, self._activation)

    def _attention(self, x: Hidden, batch: Batch) -> Hidden:
        queries, keys, values = self._project(x, batch)
        out = [self._attend(part, queries, keys, values) for part in batch.parts]
        return self.weights.output(out[0] if len(out) == 1 else torch.cat(out))

    def _project(self, x: Hidden, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Compute normed queries, keys and values with rotary embeddings, `[tokens, heads,
        head_dim]`.
        """
        heads, kv_heads, head_dim = self._heads
        packed = self.weights.qkv(x).view(len(x), heads + 2 * kv_heads, head_dim)
        turned, values = packed.split((heads + kv_heads, kv_heads), dim=1)
        if self.weights.qk_norm is not None:
            turned = norm_heads(turned, self.weights.qk_norm, self.config)
        if self.rotary:
            turns = batch.local_turns if self.local else batch.turns
            assert turns is not None  # the decoder fills both if a layer needs them
            turned = rotate(turned, *turns)
        queries, keys = turned.split((heads, kv_heads), dim=1)
        return queries, keys, values

    def _attend(self, part: Part, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Write the keys and values of one text to its cache, then attend to the visible slots."""
        rows, reach = part.rows, part.reaches[self.window]
        if part.asked is not None:
            own = queries[rows][torch.from_numpy(part.asked.rows)] * self.config.attention_scale
            part.asked.queries[:, self.index] = own
        if isinstance(part.storage, CompressedStorage):
            return self._attend_planes(part, part.storage, queries, keys, values)
        stored_keys = part.storage.keys[self.index]
        stored_values = part.storage.values[self.index]
        stored_keys[:, part.start : part.end] = keys[rows].transpose(0, 1)
        stored_values[:, part.start : part.end] = values[rows].transpose(0, 1)
        return attend(
            queries[rows],
            stored_keys[:, reach.first : part.end],
            stored_values[:, reach.first : part.end],
            reach.mask,
            self.config.attention_scale,
            self.config.scales.attention_cap,
        )

    def _attend_planes(
        self,
        part: Part,
        storage: CompressedStorage,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """`_attend` for a cache whose heads hold different rows."""
        rows, reach = part.rows, part.reaches[self.window]
        group, config, out = self.config.num_heads // self.config.num_kv_heads, self.config, []
        for head in range(config.num_kv_heads):
            plane = self.index * config.num_kv_heads + head
            own_keys, own_values = storage.plane(plane)
            shift, dropped = int(storage.planes.shift[plane]), storage.planes.end
            start, end = part.start + shift, part.end + shift
            own_keys[start:end] = keys[rows, head]
            own_values[start:end] = values[rows, head]
            mask, first = reach.mask, 0
            if self.window is not None:  # layers with a window keep all rows
                first = reach.first + shift
            elif mask is not None:  # all rows that are kept are visible
                behind = mask[:, dropped - reach.first :]
                mask = torch.cat((behind.new_zeros(len(behind), dropped + shift), behind), dim=1)
            out.append(
                attend(
                    queries[rows, head * group : (head + 1) * group],
                    own_keys[None, first:end],
                    own_values[None, first:end],
                    mask,
                    config.attention_scale,
                    config.scales.attention_cap,
                )
            )
        return torch.cat(out, dim=-1)


def feed_forward(
    weights: LayerWeights, x: Hidden, activation: Callable[[Tensor], Tensor]
) -> Hidden:
    """Apply the MLP of a layer, or its experts, to normed rows."""
    if weights.experts is not None:
        return weights.experts(x, activation)
    assert weights.gate_up is not None and weights.down is not None
    gate, up = weights.gate_up(x).chunk(2, dim=-1)
    return weights.down(activation(gate) * up)


def rms_norm(x: Hidden, weight: Float[Tensor, " hidden"] | None, eps: float) -> Hidden:
    """Root-mean-square norm (Zhang and Sennrich 2019); `x` itself if there is no norm."""
    if weight is None:
        return x
    if weight.dtype == x.dtype:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    return F.rms_norm(x.to(weight.dtype), (x.shape[-1],), weight, eps).to(x.dtype)


def norm_heads(
    turned: Float[Tensor, "tokens heads head_dim"],
    weight: Float[Tensor, "heads head_dim"],
    config: DecoderConfig,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Norm queries and keys, which lie side by side: each head, or all heads of a kind together."""
    wide, eps = turned.to(weight.dtype), config.norm_eps
    if not config.norms.whole:
        normed = F.rms_norm(wide, (config.head_dim,), eps=eps)
    else:
        counts = (config.num_heads, config.num_kv_heads)
        normed = torch.cat([F.rms_norm(p, p.shape[1:], eps=eps) for p in wide.split(counts, 1)], 1)
    return (normed * weight).to(turned.dtype)


def added(
    hidden: Hidden, branch: Hidden, norm: Float[Tensor, " hidden"] | None, config: DecoderConfig
) -> Hidden:
    """Add the result of attention or of an MLP, normed and scaled, to the rows."""
    branch = rms_norm(branch, norm, config.norm_eps)
    factor = config.scales.residual
    return hidden + (branch if factor == 1 else branch * factor)


def embedded(
    ids: Int[Tensor, " tokens"], weights: DecoderWeights, config: DecoderConfig
) -> Float[Tensor, "tokens hidden"]:
    """Return the embeddings of tokens, with their factor."""
    rows, factor = F.embedding(ids, weights.embed), config.scales.embedding
    if factor == 1:
        return rows
    return rows * torch.scalar_tensor(factor, dtype=rows.dtype)  # rounded, as in training


def entering(rows: Hidden, config: DecoderConfig) -> Hidden:
    """Return the rows that enter the first layer, with their factor."""
    return rows if config.scales.rows == 1 else rows * config.scales.rows


def logits_of(
    normed: Hidden, weights: DecoderWeights, config: DecoderConfig
) -> Float[Tensor, "tokens vocab"]:
    """Apply the head, with the divisor and the cap of the logits, to normed rows."""
    logits, scales = weights.head(normed), config.scales
    if scales.logits != 1:
        logits = logits / scales.logits
    return logits if scales.logits_cap is None else soft_cap(logits, scales.logits_cap)
