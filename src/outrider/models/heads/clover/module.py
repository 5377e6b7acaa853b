"""The arithmetic of Clover heads in PyTorch, which training and the runner share.

A token y is merged into a state x for each attention head j apart:
`x + concat_j(cos(Q_j RMS(x), K_j y) * V_j y)`. The *augmenting block*, which reads the target's
state and the token after it, is one such merge and some decoder layers. It alone has keys and
values. Its result is the state of the draft, which the first head reads; each later head merges
the token that was drafted before it into that state, and so is a recurrent network on its own path.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from outrider.models.heads.clover.config import (
    ENTER,
    FIRST,
    HEAD_NORM,
    LATER,
    STEP,
    CloverConfig,
    layer_of,
    own_of,
)
from outrider.models.heads.layer import HeadLayer, Rows
from outrider.models.heads.module import Embedding, HeadNetwork


class CloverModule(HeadNetwork[CloverConfig]):
    """Clover heads with their parameters; see `HeadNetwork`.

    Args:
        config: their shape.
        tensors: their tensors (`CloverConfig.shapes`).
        embed: the embeddings of tokens of the target.
        lm_head: `[draft, width]` rows of the target's head.
    """

    def __init__(
        self,
        config: CloverConfig,
        tensors: Mapping[str, Tensor],
        embed: Embedding,
        lm_head: Float[Tensor, "draft width"],
    ) -> None:
        super().__init__(config, tensors, lm_head)
        self._embed = embed

    def embedding(self, tokens: Int[Tensor, "*rows"]) -> Rows:
        """Return embeddings of the target."""
        return self._embed(tokens)

    # -- parts ----------------------------------------------------------------------------------

    def gates(self, name: str, state: Rows, word: Rows) -> Float[Tensor, "*rows heads"]:
        """Return how much of a token each attention head takes: a cosine, from -1 to 1.

        Args:
            name: which merge, `ENTER` or `STEP`.
            state: the state before the token.
            word: the embedding of the token.
        """
        query = self._linear(f"{name}.query", self._norm(state, f"{name}.norm.weight"))
        key = self._linear(f"{name}.key", word)
        eps = self.config.layer.norm_eps
        return F.cosine_similarity(self._heads(query), self._heads(key), dim=-1, eps=eps)

    def merged(self, name: str, state: Rows, word: Rows) -> Rows:
        """Return the state with a token merged into it; see `gates`."""
        value = self._heads(self._linear(f"{name}.value", word))
        return state + (self.gates(name, state, word)[..., None] * value).flatten(-2)

    def layer(self, number: int) -> HeadLayer:
        """Return one layer of the augmenting block."""
        return HeadLayer(self.config.layer, layer_of(number), self.part)

    # -- steps of a row -------------------------------------------------------------------------

    def enter(self, states: Rows, tokens: Int[Tensor, "*rows"]) -> Rows:
        """Return what the first layer reads.

        Args:
            states: final states of the target, after its last norm.
            tokens: the token after each of them.
        """
        return self.merged(ENTER, states, self.embedding(tokens))

    def finish(self, stream: Rows) -> Rows:
        """Return the state of a draft that begins at a row, given the result of the layers."""
        return self._norm(stream, "norm.weight")

    def first(self, state: Rows) -> Rows:
        """Return the next final state of the target as the first head predicts it."""
        return self._norm(self._linear(FIRST, state), HEAD_NORM)

    def step(self, state: Rows, tokens: Int[Tensor, "*rows"], head: int) -> tuple[Rows, Rows]:
        """Return the state after a drafted token, and what the head after it predicts.

        Args:
            state: the state before the token.
            tokens: the drafted tokens.
            head: number of the head: 1 for the one after the first drafted token.
        """
        if not self.config.regressive:
            return state, self._norm(self._linear(own_of(head), state), HEAD_NORM)
        word = self.embedding(tokens)
        state = self.merged(STEP, state, word)
        predicted = self._linear(LATER, torch.cat((state, word), dim=-1))
        return state, self._norm(predicted, HEAD_NORM)

    def _heads(self, rows: Rows) -> Float[Tensor, "*rows heads part"]:
        return rows.unflatten(-1, (self.config.layer.num_heads, -1))

    def _linear(self, name: str, rows: Rows) -> Rows:
        return F.linear(rows, self.part(f"{name}.weight"), self.part(f"{name}.bias"))

    def _norm(self, rows: Rows, name: str) -> Rows:
        return F.rms_norm(rows, (rows.shape[-1],), self.part(name), self.config.layer.norm_eps)
