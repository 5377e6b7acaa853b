"""The shape of a head of Chimera, and the names and shapes of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.models.heads.config import HeadConfig
from outrider.models.heads.medusa.config import RANKS

MIX, OUT = "encoder.mix.weight", "encoder.out.weight"
"""The square matrix inside the encoder of tokens, and the matrix after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChimeraConfig(HeadConfig):
    """The shape of a head of Chimera (Zeng et al. 2024, arXiv 2402.15758).

    Attributes:
        heads: number of heads; head k drafts the token k + 1 places after the last one of the text.
        trigram: whether the encoder reads the last three tokens; else the last one only.
        context: whether a layer reads the target's final states; else the heads read the outputs
            of the encoder.
    """

    heads: int
    trigram: bool = True
    context: bool = True

    @property
    def grams(self) -> int:
        """Number of tokens that the encoder reads."""
        return 3 if self.trigram else 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each tensor that a head must hold."""
        width, wide = self.width, self.grams * self.width
        shapes: dict[str, tuple[int, ...]] = {
            "ids": (self.draft_vocab,),
            MIX: (wide, wide),
            OUT: (width, wide),
        }
        for head in range(self.heads):
            shapes |= dict.fromkeys(squares_of(head), (width, width))
        return shapes | (self._layer_shapes() if self.context else {})

    def optional(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors that a head may hold: how often the token of each rank is right."""
        return {"accuracies": (self.heads, RANKS)}

    def check(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Raise `CheckpointError` unless names, shapes and width are those of this head."""
        HeadConfig.check(self, tensors, where)
        if self.width != self.target_width or len(self.states) != 1:
            raise CheckpointError(
                f"the head {where} has width {self.width} and states {list(self.states)}, expected "
                f"{self.target_width} and the last state of its target",
                hint="Choose a head of the width of its target",
            )


def squares_of(head: int) -> tuple[str, str]:
    """Return the names of the matrices of a head: of the target's state, and of the output."""
    return f"heads.{head}.state.weight", f"heads.{head}.output.weight"
