"""The shape of a draft head, and the names and shapes of its tensors."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.models.llama.config import DecoderConfig

LEVELS = 4
"""Kinds of hints: none, of other texts, after the last token, after the last two tokens."""

LAYER = "layers.0."
WIDER = 4
"""Width of the space in which a sampling unit mixes state and token, relative to their own."""
RANK = 256
"""Largest rank of the matrix that aligns logits."""
MTP_NORMS = ("pre_fc_norm_embedding", "pre_fc_norm_hidden")
"""Norms of token and state before `fc` of an MTP head, in the order of its inputs."""


class HeadKind(StrEnum):
    """How a head reads a token.

    EAGLE3: the token goes into the attention, beside the fused states (Li et al. 2025).
    HINTED: token and hint are added to the residual stream.
    MTP: token and the last state, both normed, are fused to the residual stream (the
        multi-token prediction of DeepSeek-V3 and Qwen3-Next).
    EAGLE1: as MTP without any norm; the head predicts the next final state of the target, to which
        the target's output rows are applied (Li et al. 2024, arXiv 2401.15077).
    FSPAD: EAGLE1 with units that mix the token into the state before, and that correct the logits
        apart from the predicted state (Gui et al. 2024, arXiv 2408.15562).
    MEDUSA: it reads no token: one small network for each of the next places reads the last state
        (Cai et al. 2024, arXiv 2401.10774).
    CLOVER: layers read state and token of the last place; a recurrent network reads each drafted
        token after it (Clover-2, Xiao et al. 2024, arXiv 2408.00264).
    """

    EAGLE3 = "eagle3"
    HINTED = "hinted"
    MTP = "mtp"
    EAGLE1 = "eagle1"
    FSPAD = "fspad"
    MEDUSA = "medusa"
    CLOVER = "clover"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadShape:
    """What the shapes of all heads state.

    Attributes:
        kind: how it reads tokens.
        states: numbers of the target's hidden states that it reads (`HiddenStates`), in order.
        target_width: size of a hidden state of the target.
        target_vocab: number of tokens of the target.
    """

    kind: HeadKind
    states: tuple[int, ...]
    target_width: int
    target_vocab: int

    @property
    def predicts_states(self) -> bool:
        """Whether its outputs are predictions of the target's final state, without a norm."""
        return self.kind in (HeadKind.EAGLE1, HeadKind.FSPAD)

    @property
    @abstractmethod
    def width(self) -> int:
        """Size of what a row hands to the next step."""

    @property
    @abstractmethod
    def draft_vocab(self) -> int:
        """Number of tokens that it can draft."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each tensor that a head must hold."""

    @abstractmethod
    def optional(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors that a head may hold."""

    def check(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Raise `CheckpointError` unless names and shapes are those of this head.

        Args:
            tensors: the tensors by name.
            where: where they come from, for the message.
        """
        expected, optional = self.shapes(), self.optional()
        for name, tensor in tensors.items():
            shape = expected.get(name, optional.get(name))
            if shape is None:
                raise CheckpointError(f"the head {where} has an unexpected tensor {name}")
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"tensor {name} of the head {where} has shape {list(tensor.shape)}; its "
                    f"configuration implies {list(shape)}"
                )
        missing = [name for name in expected if name not in tensors]
        if missing:
            raise CheckpointError(
                f"the head {where} lacks tensor {missing[0]}", hint="Download its files again"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig(HeadShape):
    """The shape of a head of one layer.

    Attributes:
        layer: its one layer; the vocabulary is that of the drafts.
        norm_states: whether each state is normed before it is fused.
        norm_fused: whether all states together are normed before they are fused.
        norm_before_residual: EAGLE-3: whether the residual stream starts with the normed input.
        norm_output: EAGLE-3: whether the next step reads the normed output.
        fuse_bias: EAGLE-1 and FSPAD: whether the matrix that fuses token and state has a bias.
        sampling: FSPAD: whether the token is mixed into the state in a wider space first.
        alignment: FSPAD: whether a matrix of low rank corrects the logits.
    """

    layer: DecoderConfig
    norm_states: bool = False
    norm_fused: bool = False
    norm_before_residual: bool = False
    norm_output: bool = False
    fuse_bias: bool = False
    sampling: bool = False
    alignment: bool = False

    @property
    def width(self) -> int:
        """Size of its residual stream."""
        return self.layer.hidden_size

    @property
    def draft_vocab(self) -> int:
        """Number of tokens that it can draft."""
        return self.layer.vocab_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each tensor that a head must hold."""
        shapes = self._layer_shapes() | {
            "fc.weight": (self.width, len(self.states) * self.target_width),
            "norm.weight": (self.width,),
            "ids": (self.draft_vocab,),
        }
        if self.predicts_states:
            return self._predictor_shapes(shapes)
        if self.norm_fused:
            shapes["fc_input_norm.weight"] = (len(self.states) * self.target_width,)
        if self.kind is HeadKind.EAGLE3:
            return shapes | {f"{LAYER}hidden_norm.weight": (self.width,)}
        if self.kind is HeadKind.MTP:
            shapes["fc.weight"] = (self.width, 2 * self.width)
            return shapes | {f"{name}.weight": (self.width,) for name in MTP_NORMS}
        square = (self.width, self.width)
        return shapes | {
            "recur.weight": square,
            "token.weight": square,
            "hint.weight": square,
            "levels": (LEVELS, self.width),
            "successors": (self.target_vocab,),
        }

    def _predictor_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Change the shapes of other heads to those of a head that predicts states."""
        width, wide = self.width, WIDER * self.width
        del shapes["norm.weight"], shapes[f"{LAYER}input_layernorm.weight"]
        shapes["fc.weight"] = (width, 2 * width)
        if self.fuse_bias:
            shapes["fc.bias"] = (width,)
        if self.sampling:
            shapes["sampling.up.weight"] = shapes["sampling.gate.weight"] = (wide, width)
            shapes["sampling.down.weight"] = (width, wide)
        if self.alignment:
            rank = min(RANK, -(-width // 2))
            shapes["alignment.down.weight"] = (rank, width)
            shapes["alignment.up.weight"] = (width, rank)
        return shapes

    def optional(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors that a head may hold; others take their place if it does not.

        Without `lm_head.weight`, the rows of the target's head are used; without
        `embed_tokens.weight`, its embeddings; without `fc_norm`, norms have the weight 1.
        """
        shapes = {
            "lm_head.weight": (self.draft_vocab, self.width),
            "embed_tokens.weight": (self.target_vocab, self.width),
        }
        if self.norm_states:
            shapes["fc_norm.weight"] = (len(self.states), self.target_width)
        return shapes

    def _layer_shapes(self) -> dict[str, tuple[int, ...]]:
        read = 2 * self.width if self.kind is HeadKind.EAGLE3 else self.width
        return layer_shapes(self.layer, LAYER, read)

    def check(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Raise `CheckpointError` unless names, shapes and width are those of this head."""
        HeadShape.check(self, tensors, where)
        same = self.kind is HeadKind.HINTED or self.predicts_states
        if same and self.width != self.target_width:
            raise CheckpointError(
                f"the head {where} has width {self.width}, and its target, whose output rows are "
                f"applied to what it predicts, {self.target_width}",
                hint="Choose a head of the width of its target",
            )


def layer_shapes(layer: DecoderConfig, prefix: str, read: int) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor of a decoder layer.

    Args:
        layer: its shape.
        prefix: the beginning of the names.
        read: number of inputs of attention.
    """
    width = layer.hidden_size
    queries, keys = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (queries, read),
        "self_attn.k_proj.weight": (keys, read),
        "self_attn.v_proj.weight": (keys, read),
        "self_attn.o_proj.weight": (width, queries),
        "mlp.gate_proj.weight": (layer.intermediate_size, width),
        "mlp.up_proj.weight": (layer.intermediate_size, width),
        "mlp.down_proj.weight": (width, layer.intermediate_size),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    if layer.qkv_bias:
        for name, size in (("q", queries), ("k", keys), ("v", keys)):
            shapes[f"self_attn.{name}_proj.bias"] = (size,)
    if layer.qk_norm:
        for name in ("q", "k"):
            shapes[f"self_attn.{name}_norm.weight"] = (layer.head_dim,)
    return {prefix + name: shape for name, shape in shapes.items()}
