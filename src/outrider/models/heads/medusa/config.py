"""The shape of Medusa heads, and the names and shapes of their tensors."""

from dataclasses import dataclass

from outrider.models.heads.config import HeadShape

RANKS = 10
"""Ranks of which files state how often they are right; no tree has more children."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MedusaConfig(HeadShape):
    """The shape of Medusa heads (Cai et al. 2024, arXiv 2401.10774).

    Attributes:
        heads: number of heads; head k drafts the token k + 1 places after the last one of the text.
        blocks: residual blocks of a head.
        drafts: number of tokens that they can draft.
        own_rows: whether each head has output rows of its own. Without them, all heads share rows
            of the target's head, and each has a square matrix in front of them.
    """

    heads: int
    drafts: int
    blocks: int = 1
    own_rows: bool = False

    @property
    def width(self) -> int:
        """Size of the state that all heads read."""
        return self.target_width

    @property
    def draft_vocab(self) -> int:
        """Number of tokens that they can draft."""
        return self.drafts

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each tensor that the heads must hold."""
        shapes: dict[str, tuple[int, ...]] = {"ids": (self.drafts,)}
        square, width = (self.width, self.width), self.width
        for head in range(self.heads):
            for block in range(self.blocks):
                shapes[block_weight(head, block)] = square
                shapes[block_bias(head, block)] = (width,)
            if self.own_rows:
                shapes[rows_of(head)] = (self.drafts, width)
            else:
                shapes[mix_of(head)] = square
        return shapes

    def optional(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors that the heads may hold: how often the token of each rank is right."""
        return {"accuracies": (self.heads, RANKS)}


def block_weight(head: int, block: int) -> str:
    """Return the name of the matrix of a residual block."""
    return f"heads.{head}.blocks.{block}.weight"


def block_bias(head: int, block: int) -> str:
    """Return the name of the bias of a residual block."""
    return f"heads.{head}.blocks.{block}.bias"


def mix_of(head: int) -> str:
    """Return the name of the square matrix between the blocks of a head and shared rows."""
    return f"heads.{head}.mix.weight"


def rows_of(head: int) -> str:
    """Return the name of the output rows of a head that has its own."""
    return f"heads.{head}.rows.weight"
