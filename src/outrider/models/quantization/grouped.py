"""Weights in groups of 32 inputs, with a scale for each group.

One large weight in a row of a matrix makes the steps of a single scale too coarse for all others.
With a scale for each group it affects 32 weights only (Dettmers et al. 2022; the Q formats of
llama.cpp).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

GROUP = 32
"""Inputs of one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """A matrix of small integers and the factors that make weights of them.

        weight[o, i] = scales[o, s] * fine[o, g] * (quants[o, i] - zero)
                       - minimums[o, s] * fine_minimums[o, g]

    with `g = i // 32` and `s = i // span`.

    Attributes:
        bits: 4 or 8; `quants` lie below `2 ** bits`.
        zero: the integer that stands for 0 (without minimums).
        span: inputs that share a scale, a multiple of 32.
        quants: the integers, `[outputs, inputs]`.
        scales: one for each span, `[outputs, spans]`.
        fine: whole factors of the scale, `[outputs, groups]`; None stands for 1.
        minimums: subtracted from each weight, `[outputs, spans]`; None stands for 0.
        fine_minimums: whole factors of the minimum, `[outputs, groups]`; None stands for 1.
    """

    bits: int
    zero: int
    span: int
    quants: UInt8[Tensor, "outputs inputs"]
    scales: Float16[Tensor, "outputs spans"]
    fine: UInt8[Tensor, "outputs groups"] | None = None
    minimums: Float16[Tensor, "outputs spans"] | None = None
    fine_minimums: UInt8[Tensor, "outputs groups"] | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        assert self.bits in (4, 8) and self.span % GROUP == 0
        inputs = self.quants.shape[1]
        assert self.scales.shape[1] == -(-inputs // self.span)
        assert self.fine is None or self.fine.shape[1] == -(-inputs // GROUP)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of outputs and of inputs."""
        outputs, inputs = self.quants.shape
        return outputs, inputs

    @property
    def layout(self) -> tuple[int, int, int, bool, bool, bool]:
        """What must be equal in matrices that are joined."""
        given = (self.fine, self.minimums, self.fine_minimums)
        fine, minimums, fine_minimums = (part is not None for part in given)
        return self.bits, self.zero, self.span, fine, minimums, fine_minimums

    def dequantize(self) -> Float[Tensor, "outputs inputs"]:
        """Return the float32 weights that the integers represent."""
        weight = self._spread(self.scales, self.fine) * (self.quants.float() - self.zero)
        if self.minimums is None:
            return weight
        return weight - self._spread(self.minimums, self.fine_minimums)

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> "Grouped":
        """Return the matrix with rows that `change` has selected or reordered in each part."""
        return Grouped(
            bits=self.bits,
            zero=self.zero,
            span=self.span,
            quants=change(self.quants),
            scales=change(self.scales),
            fine=None if self.fine is None else change(self.fine),
            minimums=None if self.minimums is None else change(self.minimums),
            fine_minimums=None if self.fine_minimums is None else change(self.fine_minimums),
        )

    def _spread(
        self, spans: Float16[Tensor, "outputs spans"], fine: UInt8[Tensor, "outputs groups"] | None
    ) -> Float[Tensor, "outputs inputs"]:
        """Return the factor of each input."""
        inputs = self.quants.shape[1]
        wide = spans.float().repeat_interleave(self.span, dim=1)[:, :inputs]
        if fine is None:
            return wide
        return wide * fine.float().repeat_interleave(GROUP, dim=1)[:, :inputs]


def join(parts: Sequence[Grouped]) -> Grouped | None:
    """Put matrices below each other; None if their integers do not stand for the same things."""
    first = parts[0]
    if any(part.layout != first.layout for part in parts):
        return None

    def all_of(tensors: list[Tensor | None]) -> Tensor | None:
        found = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(found) if found else None

    return Grouped(
        bits=first.bits,
        zero=first.zero,
        span=first.span,
        quants=torch.cat([part.quants for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        fine=all_of([part.fine for part in parts]),
        minimums=all_of([part.minimums for part in parts]),
        fine_minimums=all_of([part.fine_minimums for part in parts]),
    )


def quantize_groups(weight: Float[Tensor, "outputs inputs"]) -> Grouped:
    """Round each group to 255 steps of its own largest magnitude, 8 bits, as Q8_0 of llama.cpp.

    A group of zeros gets scale 0. A group that holds NaN or infinity gets scale NaN, so that the
    error is visible in every product.
    """
    outputs, inputs = weight.shape
    groups = F.pad(weight.float(), (0, -inputs % GROUP)).view(outputs, -1, GROUP)
    largest = groups.abs().amax(dim=2)
    scales = (largest / 127).half()
    steps = torch.where(scales > 0, 1 / scales.float(), torch.zeros_like(largest))
    whole = (groups * steps[..., None]).nan_to_num(0.0, 0.0, 0.0).round().clamp(-127, 127)
    scales = torch.where(largest.isfinite(), scales, torch.full_like(scales, torch.nan))
    quants = (whole + 128).to(torch.uint8).view(outputs, -1)[:, :inputs]
    return Grouped(bits=8, zero=128, span=GROUP, quants=quants, scales=scales)
