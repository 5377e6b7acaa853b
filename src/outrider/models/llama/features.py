"""Features in which a decoder differs from Llama: norms, factors, caps, names of projections."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from outrider.models.llama.rope_scaling import Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """The norms of a layer by the names of their tensors; None: there is no such norm.

    Attributes:
        before_attention: of the rows that attention reads.
        after_attention: of the result of attention, before it is added to the rows.
        before_mlp: of the rows that the MLP reads.
        after_mlp: of the result of the MLP, before it is added to the rows.
        offset: added to the weights of all norms of the model.
        whole: the norms of queries and keys cover all heads of a row together.
    """

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None
    offset: float = 0.0
    whole: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the norms that exist."""
        places = (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        return tuple(name for name in places if name is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Factors and soft caps; a cap c changes x to c * tanh(x / c), and None changes nothing.

    Attributes:
        embedding: factor of the embeddings of tokens.
        rows: factor of all rows that enter the first layer, given embeddings too.
        residual: factor of the results of attention and MLP before they are added.
        attention: factor of the scores; None: 1 / sqrt(head_dim).
        attention_cap: cap of the scores.
        logits: divisor of the logits.
        logits_cap: cap of the logits.
    """

    embedding: float = 1.0
    rows: float = 1.0
    residual: float = 1.0
    attention: float | None = None
    attention_cap: float | None = None
    logits: float = 1.0
    logits_cap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """Whether the checkpoint stores matrices with the same input as one matrix."""

    qkv: bool = False
    gate_up: bool = False


def order_of_pairs(
    rope: Rope, head_dim: int, *, interleaved: bool
) -> Int[Tensor, " head_dim"] | None:
    """Return the order of a head's dimensions in which the decoder rotates i with i + half.

    The dimensions of a checkpoint are in another order if only the first of them rotate, or if
    neighbours rotate together. Rows of queries and keys are put into the order of the decoder when
    they are loaded, so that every runner needs one kind of rotation only.

    Args:
        rope: the rotary embedding; its last pairs do not rotate where the rotation is partial.
        head_dim: size of a head.
        interleaved: dimension 2 i rotates with 2 i + 1, and not with the one half further on.

    Returns:
        Dimensions of the checkpoint in the order of the decoder; None if both orders are equal.
    """
    turning = 2 * rope.turning
    if turning == head_dim and not interleaved:
        return None
    dims, still = torch.arange(turning), torch.arange(turning, head_dim)
    first, second = (dims[0::2], dims[1::2]) if interleaved else dims.chunk(2)
    left, right = still[: len(still) // 2], still[len(still) // 2 :]
    return torch.cat((first, left, second, right))
