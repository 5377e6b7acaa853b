"""The arithmetic of a draft head in PyTorch, which training and the readable runner share.

A row of a head belongs to a token and to the place before it: it reads the target's hidden states
there and the token, and predicts the token after. In later steps of a draft, where the target has
no states yet, the output of the row before takes their place.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from outrider.models.heads.config import LAYER, MTP_NORMS, HeadConfig, HeadKind, HeadShape
from outrider.models.heads.layer import HeadLayer, Rows

Embedding = Callable[[Int[Tensor, "*rows"]], Rows]


Shape = TypeVar("Shape", bound=HeadShape, covariant=True)


class HeadNetwork(nn.Module, Generic[Shape]):
    """The parameters of a head of any kind.

    Args:
        config: its shape.
        tensors: its tensors (`HeadShape.shapes`); those of integers are ignored.
        lm_head: `[draft, width]` rows of the target's head, for a head without its own.

    Attributes:
        lm_head: the rows that score drafts; training replaces them by those of other tokens.
        replaced: tensors that take the place of parameters, such as rounded ones.
    """

    config: Shape

    def __init__(
        self,
        config: Shape,
        tensors: Mapping[str, Tensor],
        lm_head: Float[Tensor, "draft width"],
    ) -> None:
        super().__init__()
        self.config = config
        self.replaced: Mapping[str, Tensor] = {}
        self.parts = nn.ParameterDict()
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.parts[_key(name)] = nn.Parameter(tensor)
        self.lm_head = tensors.get("lm_head.weight", lm_head)

    def part(self, name: str) -> Tensor:
        """Return a tensor by its name in the file, or what takes its place."""
        found = self.replaced.get(name)
        return self.parts[_key(name)] if found is None else found

    def tensors(self) -> dict[str, Tensor]:
        """Return its parameters by their names in files."""
        return {key.replace("/", "."): part.detach() for key, part in self.parts.items()}


class HeadModule(HeadNetwork[HeadConfig]):
    """A head of one layer.

    Attributes:
        config: its shape.
        lm_head: `[draft, width]` rows that score the draft vocabulary.

    Args:
        config: its shape.
        tensors: its tensors (`HeadConfig.shapes`); those of integers are ignored.
        embed: the embeddings of tokens, for a head without its own.
        lm_head: `[draft, width]` rows of the target's head, for a head without its own.
    """

    def __init__(
        self,
        config: HeadConfig,
        tensors: Mapping[str, Tensor],
        embed: Embedding,
        lm_head: Float[Tensor, "draft width"],
    ) -> None:
        super().__init__(config, tensors, lm_head)
        own = tensors.get("embed_tokens.weight")
        self._embed: Embedding = embed if own is None else lambda ids: F.embedding(ids, own)

    @property
    def layer(self) -> HeadLayer:
        """Its one layer."""
        return HeadLayer(self.config.layer, LAYER, self.part)

    # -- steps of a row -------------------------------------------------------------------------

    def fused(self, states: Float[Tensor, "*rows states target"]) -> Rows:
        """Fuse hidden states of the target to the input of a first step."""
        config = self.config
        if config.kind is HeadKind.MTP or config.predicts_states:  # `enter` fuses state and token
            return states.flatten(-2)
        if config.norm_states:
            states = self._norm(states, None)
            if "fc_norm/weight" in self.parts:
                states = states * self.part("fc_norm.weight")
        flat = states.flatten(-2)
        if config.norm_fused:
            flat = self._norm(flat, "fc_input_norm.weight")
        return F.linear(flat, self.part("fc.weight"))

    def continued(self, outputs: Rows) -> Rows:
        """Turn the outputs of rows (`outputs`) to the input of the next step."""
        if self.config.kind is not HeadKind.HINTED:
            return outputs
        return F.linear(outputs, self.part("recur.weight"))

    def enter(
        self,
        inputs: Rows,
        tokens: Int[Tensor, "*rows"],
        hints: Int[Tensor, "*rows"],
        levels: Int[Tensor, "*rows"],
    ) -> tuple[Rows, Tensor]:
        """Return the residual stream and what attention reads.

        Args:
            inputs: of `fused` or `continued`.
            tokens: the token of each row.
            hints: the hint of each row; any token where the level is 0.
            levels: the level of each hint.
        """
        if self.config.kind is HeadKind.EAGLE3:
            normed = self._norm(inputs, f"{LAYER}hidden_norm.weight")
            word = self._norm(self.embedding(tokens), f"{LAYER}input_layernorm.weight")
            stream = normed if self.config.norm_before_residual else inputs
            return stream, torch.cat((word, normed), dim=-1)
        if self.config.predicts_states:
            word = self.embedding(tokens)
            stream = torch.cat((word, self._sampled(inputs, word)), dim=-1)
            bias = self.part("fc.bias") if self.config.fuse_bias else None
            stream = F.linear(stream, self.part("fc.weight"), bias)
            return stream, stream
        if self.config.kind is HeadKind.MTP:
            both = zip((self.embedding(tokens), inputs), MTP_NORMS, strict=True)
            normed = [self._norm(one, f"{name}.weight") for one, name in both]
            stream = F.linear(torch.cat(normed, dim=-1), self.part("fc.weight"))
            return stream, self._norm(stream, f"{LAYER}input_layernorm.weight")
        known = (levels > 0)[..., None]
        hinted = self.normed_embedding(hints) * known
        stream = inputs + F.linear(self.normed_embedding(tokens), self.part("token.weight"))
        stream = stream + F.linear(hinted, self.part("hint.weight"))
        stream = stream + F.embedding(levels, self.part("levels"))
        return stream, self._norm(stream, f"{LAYER}input_layernorm.weight")

    def _sampled(self, state: Rows, word: Rows) -> Rows:
        """Mix the embedding of a token into the state before it (FSPAD: feature sampling).

        In the wider space each number of the state is scaled by a gate of the token, which draws
        from an uncertain state the part that belongs to the token.
        """
        if not self.config.sampling:
            return state
        gate = F.silu(F.linear(word, self.part("sampling.gate.weight")))
        wide = F.linear(state, self.part("sampling.up.weight")) * gate
        return state + F.linear(wide, self.part("sampling.down.weight"))

    def normed_embedding(self, tokens: Int[Tensor, "*rows"]) -> Rows:
        """Return embeddings with a norm of weight 1."""
        return self._norm(self.embedding(tokens), None)

    def embedding(self, tokens: Int[Tensor, "*rows"]) -> Rows:
        """Return embeddings of the target, or its own."""
        return self._embed(tokens)

    def project(self, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values `[*rows, heads, head_dim]`, not rotated."""
        return self.layer.project(read)

    def leave(self, stream: Rows, attended: Float[Tensor, "*rows queries"]) -> Rows:
        """Return the stream after the layer, given the result of attention."""
        return self.layer.leave(stream, attended)

    def answer(self, stream: Rows) -> tuple[Float[Tensor, "*rows draft"], Rows]:
        """Return logits of the draft vocabulary, and what the next step reads (`continued`)."""
        if self.config.predicts_states:
            return F.linear(self._aligned(stream), self.lm_head), stream
        normed = self._norm(stream, "norm.weight")
        logits = F.linear(normed, self.lm_head)
        plain = self.config.kind is HeadKind.EAGLE3 and not self.config.norm_output
        return logits, stream if plain else normed

    def _aligned(self, state: Rows) -> Rows:
        """Return what the output rows read (FSPAD: partial alignment distillation).

        The predicted state is fed back and should equal that of the target. The logits may leave
        it by a correction of low rank, and only half of their gradient reaches it.
        """
        if not self.config.alignment:
            return state
        read = (state + state.detach()) / 2
        low = F.linear(read, self.part("alignment.down.weight"))
        return read + F.linear(low, self.part("alignment.up.weight"))

    def output_rows(self) -> Float[Tensor, "draft width"]:
        """Return the rows that give the logits of the outputs of a head without last norm."""
        if not self.config.alignment:
            return self.lm_head
        rows = self.lm_head @ self.part("alignment.up.weight")
        return self.lm_head + rows @ self.part("alignment.down.weight")

    def _norm(self, x: Tensor, name: str | None) -> Tensor:
        weight = None if name is None else self.part(name)
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.layer.norm_eps)


def _key(name: str) -> str:
    return name.replace(".", "/")  # ParameterDict allows no dots
