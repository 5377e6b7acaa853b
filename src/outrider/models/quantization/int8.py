"""Quantizes weights to int8, with one scale for each output channel.

Kernels quantize activations at run time, each row by its own largest value. Therefore a row's
result does not depend on other rows.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8
from torch import Tensor

STEPS = 127
"""The largest magnitude; -128 is not used, so that negation cannot overflow."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """`weight ~ quants * scales[:, None]`."""

    quants: Int8[Tensor, "outputs inputs"]
    scales: Float[Tensor, " outputs"]

    def dequantize(self) -> Float[Tensor, "outputs inputs"]:
        """Return the float32 weights that the integers represent."""
        return self.quants.float() * self.scales[:, None]


def quantize_channels(weight: Float[Tensor, "outputs inputs"]) -> Quantized:
    """Round each output channel to 255 steps of its own largest magnitude.

    A channel of zeros gets scale 0. A channel that holds NaN or infinity gets scale NaN, so that
    its product is also NaN and the error is visible.
    """
    weight = weight.float()
    largest = weight.abs().amax(dim=1)
    scales = largest / STEPS
    steps = torch.where(scales > 0, 1 / scales, torch.zeros_like(scales))
    quants = (weight * steps[:, None]).nan_to_num(0.0, 0.0, 0.0).round().clamp(-STEPS, STEPS)
    scales = torch.where(scales.isfinite(), scales, torch.full_like(scales, torch.nan))
    return Quantized(quants.to(torch.int8), scales)
