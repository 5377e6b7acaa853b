"""Matrices of 4 bits in training: forwards read rounded weights, and gradients pass to the others.

Without it, a head loses a part of its acceptance when it is rounded after training. The gradient of
rounding is taken as 1 (straight-through; Bengio et al. 2013, arXiv 1308.3432).
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from outrider.models.heads.formats.hinted import is_matrix
from outrider.models.heads.module import HeadModule
from outrider.models.quantization.grouped import GROUP, Grouped
from outrider.models.quantization.int4 import quantize_int4

_RENEWED = 32
"""Batches after which the levels of each group are fitted again: the search takes a second."""


@dataclass(frozen=True, slots=True)
class _Levels:
    """The 16 levels of each group: `scale * q + bottom`, `[outputs, groups, 1]`."""

    scale: Tensor
    bottom: Tensor

    @classmethod
    def of(cls, matrix: Grouped) -> "_Levels":
        assert matrix.minimums is not None  # matrices of 4 bits have minimums
        return cls(matrix.scales.float()[..., None], -matrix.minimums.float()[..., None])

    def round(self, weight: Tensor) -> Tensor:
        """Return the nearest levels of a matrix."""
        inputs = weight.shape[1]
        groups = F.pad(weight, (0, -inputs % GROUP)).unflatten(1, (-1, GROUP))
        steps = torch.where(self.scale != 0, 1 / self.scale, 0.0)
        whole = ((groups - self.bottom) * steps).round_().clamp_(0, 15)
        return (whole * self.scale + self.bottom).flatten(1)[:, :inputs]


@dataclass(slots=True)
class Rounding:
    """Rounds the matrices of a head to 4 bits, as its files will hold them."""

    head: HeadModule
    _levels: dict[str, _Levels] = field(default_factory=dict[str, _Levels])
    _batches: int = 0

    def apply(self) -> None:
        """Let the next forward and backward of the head use rounded matrices."""
        with torch.no_grad():
            renewed = self._batches % _RENEWED == 0
            changes = {name: self._change(name, p, renewed) for name, p in self._matrices()}
        self._batches += 1
        # the sum has the value of the rounded weight and the gradient of the weight
        self.head.replaced = {name: p + changes[name] for name, p in self._matrices()}

    def finish(self) -> None:
        """Let further forwards use the matrices as they will be written."""
        with torch.no_grad():
            self.head.replaced = {
                name: quantize_int4(matrix).dequantize() for name, matrix in self._matrices()
            }

    def _matrices(self) -> list[tuple[str, Tensor]]:
        named = ((key.replace("/", "."), p) for key, p in self.head.parts.items())
        return [(name, p) for name, p in named if is_matrix(name, p)]

    def _change(self, name: str, weight: Tensor, renewed: bool) -> Tensor:
        if renewed:
            self._levels[name] = _Levels.of(quantize_int4(weight))
        return self._levels[name].round(weight) - weight
