"""The arithmetic of Chimera in PyTorch, which training and the runner share.

A row belongs to a token whose state the target has not computed yet. The encoder makes a vector
`g = Lin(x + SiLU(W x))` of the embeddings x of the last three tokens. It enters one layer at the
place of its token, behind the final states of the places before. In later steps the output of the
row before stands for the state of its token. So a row sees all states and the outputs of its own
branch, and of all encoded tokens only its own.

Head k reads the target's last state h and the output s of its row. One matrix of the vocabulary
and both inputs for each head would be large: each head has two square matrices before rows of the
target's head, `R (A_k h + B_k s)`. Both start as the identity, which gives the published start.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from outrider.models.heads.chimera.config import MIX, OUT, ChimeraConfig, squares_of
from outrider.models.heads.config import LAYER
from outrider.models.heads.module import HeadModule, Rows

Turned = Float[Tensor, "*rows heads head_dim"]


class ChimeraModule(HeadModule):
    """A head of Chimera with its parameters; see `HeadModule`."""

    config: ChimeraConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def encoded(self, tokens: Int[Tensor, "*rows grams"]) -> Rows:
        """Return the vector of each row of tokens, the last token last."""
        words = self.embedding(tokens).flatten(-2)
        return F.linear(words + F.silu(F.linear(words, self.part(MIX))), self.part(OUT))

    def remembered(self, states: Rows) -> tuple[Turned, Turned]:
        """Return keys and values, not rotated, of final states or of outputs in their place."""
        read, layer = self._entry(states), self.layer
        return layer.projected(read, "k"), layer.projected(read, "v")

    def drafting(self, encoded: Rows) -> tuple[Turned, Turned, Turned]:
        """Return queries, keys and values, not rotated, of rows that enter the layer."""
        return self.project(self._entry(encoded))

    def logits(self, states: Rows, outputs: Rows, head: int) -> Float[Tensor, "*rows draft"]:
        """Return the logits of one head.

        Args:
            states: final states of the target at the place before the last token of the text.
            outputs: of the rows after which the token is drafted.
            head: 0 for the token after the last one of the text.
        """
        first, second = (self.part(name) for name in squares_of(head))
        return F.linear(F.linear(states, first) + F.linear(outputs, second), self.lm_head)

    def _entry(self, stream: Rows) -> Rows:
        return self._norm(stream, f"{LAYER}input_layernorm.weight")


def grams_of(tokens: Int[Tensor, "*texts length"], count: int) -> Int[Tensor, "*texts length n"]:
    """Return the last `count` tokens at each place; the first one is repeated where some lack."""
    places = torch.arange(tokens.shape[-1], device=tokens.device)
    before = torch.arange(1 - count, 1, device=tokens.device)
    return tokens[..., (places[:, None] + before).clamp(min=0)]
