"""One layer of a Llama-shaped decoder over the packed rows of a ragged batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.models.llama.attention import Part, attend
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.rope import rotate
from outrider.models.llama.weights import LayerWeights

Hidden = Float[Tensor, "tokens hidden"]

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
        cos: cosines for the position of each row.
        sin: signed sines for the position of each row.
    """

    parts: Sequence[Part]
    cos: Float[Tensor, "tokens 1 head_dim"]
    sin: Float[Tensor, "tokens 1 head_dim"]


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
        self._heads = (config.num_heads, config.num_kv_heads, config.head_dim)
        self._eps = config.norm_eps
        self._activation = ACTIVATION_FUNCTIONS[config.activation]

    def __call__(self, hidden: Hidden, batch: Batch) -> Hidden:
        """Return the rows after this layer; write their keys and values to the caches."""
        weights = self.weights
        if self.attends:
            normed = rms_norm(hidden, weights.input_norm, self._eps)
            hidden = hidden + self._attention(normed, batch)
        if self.feeds:
            hidden = hidden + self._mlp(rms_norm(hidden, weights.mlp_norm, self._eps))
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
            turned = F.rms_norm(turned, (head_dim,), eps=self._eps) * self.weights.qk_norm
        if self.rotary:
            turned = rotate(turned, batch.cos, batch.sin)
        queries, keys = turned.split((heads, kv_heads), dim=1)
        return queries, keys, values

    def _attend(self, part: Part, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Write the keys and values of one text to its cache, then attend to the visible slots."""
        rows, reach = part.rows, part.reaches[self.window]
        stored_keys = part.storage.keys[self.index]
        stored_values = part.storage.values[self.index]
        stored_keys[:, part.start : part.end] = keys[rows].transpose(0, 1)
        stored_values[:, part.start : part.end] = values[rows].transpose(0, 1)
        return attend(
            queries[rows],
            stored_keys[:, reach.first : part.end],
            stored_values[:, reach.first : part.end],
            reach.mask,
        )


def feed_forward(
    weights: LayerWeights, x: Hidden, activation: Callable[[Tensor], Tensor]
) -> Hidden:
    """Apply the MLP of a layer, or its experts, to normed rows."""
    if weights.experts is not None:
        return weights.experts(x, activation)
    assert weights.gate_up is not None and weights.down is not None
    gate, up = weights.gate_up(x).chunk(2, dim=-1)
    return weights.down(activation(gate) * up)


def rms_norm(x: Hidden, weight: Float[Tensor, " hidden"], eps: float) -> Hidden:
    """Root-mean-square norm (Zhang and Sennrich 2019)."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)
