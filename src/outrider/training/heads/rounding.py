"""Matrices of 4 bits in training: forwards read rounded weights, and gradients pass to the others.

Without it, a head loses a part of its acceptance when it is rounded after training. The gradient of
rounding is taken as 1 (straight-through; Bengio et al. 2013, arXiv 1308.3432).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outrider.models.heads.config import HeadShape
from outrider.models.heads.formats.own import is_matrix
from outrider.models.heads.module import HeadNetwork
from outrider.models.quantization.grouped import GROUP
from outrider.models.quantization.int4 import quantize_int4

_RENEWED = 32
"""Batches after which the levels of each group are fitted again: the search takes a second."""


class Rounding(nn.Module):
    """Rounds the matrices of a head to 4 bits, as its files will hold them.

    The 16 levels of each group are `scale * q + bottom`. They are parameters, so that a
    checkpoint holds them.
    """

    def __init__(self, head: HeadNetwork[HeadShape]) -> None:
        super().__init__()
        for name, matrix in _matrices(head):
            empty = torch.zeros(matrix.shape[0], -(-matrix.shape[1] // GROUP), 1)
            for end in ("scale", "bottom"):
                level = nn.Parameter(empty.clone(), requires_grad=False)
                self.register_parameter(_key(name, end), level)

    def use(self, head: HeadNetwork[HeadShape], batch: int) -> None:
        """Let the forward and the backward of a batch use rounded matrices.

        Args:
            head: the head.
            batch: the number of the batch in the training.
        """
        with torch.no_grad():
            if batch % _RENEWED == 0:
                self._renew(head)
            changes = {name: self._round(name, p) - p for name, p in _matrices(head)}
        # the sum has the value of the rounded weight and the gradient of the weight
        head.replaced = {name: p + changes[name] for name, p in _matrices(head)}

    @staticmethod
    @torch.no_grad()
    def finish(head: HeadNetwork[HeadShape]) -> None:
        """Let further forwards use the matrices as they will be written."""
        head.replaced = {name: quantize_int4(p).dequantize() for name, p in _matrices(head)}

    def _renew(self, head: HeadNetwork[HeadShape]) -> None:
        for name, matrix in _matrices(head):
            found = quantize_int4(matrix)
            assert found.minimums is not None  # matrices of 4 bits have minimums
            self.get_parameter(_key(name, "scale")).copy_(found.scales[..., None])
            self.get_parameter(_key(name, "bottom")).copy_(-found.minimums[..., None])

    def _round(self, name: str, weight: Tensor) -> Tensor:
        """Return the nearest levels of a matrix."""
        scale, bottom = (self.get_parameter(_key(name, end)) for end in ("scale", "bottom"))
        inputs = weight.shape[1]
        groups = F.pad(weight, (0, -inputs % GROUP)).unflatten(1, (-1, GROUP))
        steps = torch.where(scale != 0, 1 / scale, 0.0)
        whole = ((groups - bottom) * steps).round_().clamp_(0, 15)
        return (whole * scale + bottom).flatten(1)[:, :inputs]


def _matrices(head: HeadNetwork[HeadShape]) -> list[tuple[str, Tensor]]:
    named = ((key.replace("/", "."), part) for key, part in head.parts.items())
    return [(name, part) for name, part in named if is_matrix(name, part)]


def _key(name: str, end: str) -> str:
    return f"{name}_{end}".replace(".", "/")  # parameters allow no dots
