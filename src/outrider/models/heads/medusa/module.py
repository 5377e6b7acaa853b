"""The arithmetic of Medusa heads in PyTorch, which training and the runner share.

Head k computes `W2_k (h + SiLU(W1_k h + b_k))` of the target's last state h. Rows W2 of published
checkpoints are matrices of their own. Ours are rows of the target's head, which cost no storage,
times a square matrix that starts as the identity: frozen rows alone leave a head little to learn,
since SiLU is bounded below, so that a block can hardly take away what h says of the next place.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.models.heads.medusa.config import (
    MedusaConfig,
    block_bias,
    block_weight,
    mix_of,
    rows_of,
)
from outrider.models.heads.module import HeadNetwork

States = Float[Tensor, "*rows width"]


class MedusaModule(HeadNetwork[MedusaConfig]):
    """Medusa heads with their parameters; see `HeadNetwork`."""

    def logits(self, states: States, head: int) -> Float[Tensor, "*rows draft"]:
        """Return the logits of one head.

        Args:
            states: last states of the target, after its final norm.
            head: 0 for the token after the last one of the text.
        """
        if self.config.own_rows:
            return F.linear(self._blocks(states, head), self.part(rows_of(head)))
        return F.linear(self._mixed(states, head), self.lm_head)

    def all_logits(self, state: Float[Tensor, " width"]) -> Float[Tensor, "heads draft"]:
        """Return the logits of all heads after one state; shared rows are read once."""
        heads = range(self.config.heads)
        if self.config.own_rows:
            return torch.stack([self.logits(state, head) for head in heads])
        return F.linear(torch.stack([self._mixed(state, head) for head in heads]), self.lm_head)

    def _blocks(self, states: States, head: int) -> States:
        for block in range(self.config.blocks):
            weight, bias = self.part(block_weight(head, block)), self.part(block_bias(head, block))
            states = states + F.silu(F.linear(states, weight, bias))
        return states

    def _mixed(self, states: States, head: int) -> States:
        return F.linear(self._blocks(states, head), self.part(mix_of(head)))


def untrained(config: MedusaConfig) -> dict[str, Tensor]:
    """Return the parameters before training: every head gives the logits of its output rows.

    Output rows of heads that have their own are left out.
    """
    tensors: dict[str, Tensor] = {}
    for head in range(config.heads):
        for block in range(config.blocks):
            tensors[block_weight(head, block)] = torch.zeros(config.width, config.width)
            tensors[block_bias(head, block)] = torch.zeros(config.width)
        if not config.own_rows:
            tensors[mix_of(head)] = torch.eye(config.width)
    return tensors
