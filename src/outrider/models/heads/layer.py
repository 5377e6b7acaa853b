"""One decoder layer among the tensors of a head."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.layers import ACTIVATION_FUNCTIONS

Rows = Float[Tensor, "*rows width"]


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """The arithmetic of one layer, of which attention itself is left to the caller.

    Attributes:
        config: its shape.
        prefix: the beginning of the names of its tensors, such as `layers.0.`.
        part: returns a tensor of the head by its name.
    """

    config: DecoderConfig
    prefix: str
    part: Callable[[str], Tensor]

    def project(self, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values `[*rows, heads, head_dim]`, not rotated.

        Args:
            read: `[*rows, inputs]` what attention reads, normed.
        """
        layer = self.config
        found = [
            F.linear(
                read,
                self._of(f"self_attn.{name}_proj.weight"),
                self._of(f"self_attn.{name}_proj.bias") if layer.qkv_bias else None,
            )
            for name in "qkv"
        ]
        heads = (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads)
        queries, keys, values = (
            one.unflatten(-1, (count, layer.head_dim))
            for one, count in zip(found, heads, strict=True)
        )
        if layer.qk_norm:
            queries = self.norm(queries, "self_attn.q_norm.weight")
            keys = self.norm(keys, "self_attn.k_norm.weight")
        return queries, keys, values

    def leave(self, stream: Rows, attended: Float[Tensor, "*rows queries"]) -> Rows:
        """Return the stream after the layer, given the result of attention."""
        stream = stream + F.linear(attended, self._of("self_attn.o_proj.weight"))
        read = self.norm(stream, "post_attention_layernorm.weight")
        activation = ACTIVATION_FUNCTIONS[self.config.activation]
        gate = activation(F.linear(read, self._of("mlp.gate_proj.weight")))
        up = F.linear(read, self._of("mlp.up_proj.weight"))
        return stream + F.linear(gate * up, self._of("mlp.down_proj.weight"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Return rows with the norm of this name."""
        return F.rms_norm(x, (x.shape[-1],), self._of(name), self.config.norm_eps)

    def _of(self, name: str) -> Tensor:
        return self.part(f"{self.prefix}{name}")
