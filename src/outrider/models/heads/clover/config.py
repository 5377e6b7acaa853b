"""The shape of Clover heads, and the names and shapes of their tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.models.heads.config import HeadShape, layer_shapes
from outrider.models.llama.config import DecoderConfig

ENTER, STEP = "enter", "step"
"""Names of the two merges of a token: into the state of the target, and into that of a draft."""
FIRST, LATER = "first", "later"
"""Names of the matrices that the first head and all later ones have."""
HEAD_NORM = "head_norm.weight"
"""Name of the norm in front of the output rows, which all heads share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CloverConfig(HeadShape):
    """The shape of Clover heads (Clover-2, Xiao et al. 2024, arXiv 2408.00264).

    Attributes:
        layer: the shape of each layer of the augmenting block; the vocabulary is that of the
            drafts.
        layers: number of these layers. The paper has 2; 0 leaves the block out.
        regressive: whether a later head reads the token that was drafted before it. Without it,
            each later head has a matrix of its own and reads what the first head reads.
        heads: number of heads, if they are not regressive; regressive ones share their weights, so
            that they draft any number of tokens.
    """

    layer: DecoderConfig
    layers: int = 2
    regressive: bool = True
    heads: int = 5

    @property
    def width(self) -> int:
        """Size of the state of a draft."""
        return self.layer.hidden_size

    @property
    def draft_vocab(self) -> int:
        """Number of tokens that it can draft."""
        return self.layer.vocab_size

    @property
    def longest(self) -> int | None:
        """The largest number of tokens that are drafted after a text; None: no limit."""
        return None if self.regressive else self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each tensor that the heads must hold."""
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {"ids": (self.draft_vocab,), **self._merge(ENTER)}
        for number in range(self.layers):
            shapes |= layer_shapes(self.layer, layer_of(number), width)
        shapes["norm.weight"] = shapes[HEAD_NORM] = (width,)
        shapes |= _linear(FIRST, width, width)
        if self.regressive:
            return shapes | self._merge(STEP) | _linear(LATER, width, 2 * width)
        for head in range(1, self.heads):
            shapes |= _linear(own_of(head), width, width)
        return shapes

    def optional(self) -> dict[str, tuple[int, ...]]:
        """Return nothing: the heads hold all of their tensors."""
        return {}

    def _merge(self, name: str) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {f"{name}.norm.weight": (self.width,)}
        for part in ("query", "key", "value"):
            shapes |= _linear(f"{name}.{part}", self.width, self.width)
        return shapes

    def check(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Raise `CheckpointError` unless names, shapes and widths are those of these heads."""
        HeadShape.check(self, tensors, where)
        if self.width != self.target_width:
            raise CheckpointError(
                f"the head {where} has width {self.width}, and its target, whose output rows are "
                f"applied to what it predicts, {self.target_width}",
                hint="Choose a head of the width of its target",
            )
        if self.width % self.layer.num_heads:
            raise CheckpointError(
                f"the head {where} has width {self.width} and {self.layer.num_heads} attention "
                "heads, and a token is merged into equal parts of the state",
                hint="Choose a head whose width is a multiple of its number of attention heads",
            )


def layer_of(number: int) -> str:
    """Return the beginning of the names of the tensors of a layer."""
    return f"layers.{number}."


def own_of(head: int) -> str:
    """Return the name of the matrix of a later head that is not regressive."""
    return f"{LATER}.{head}"


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
