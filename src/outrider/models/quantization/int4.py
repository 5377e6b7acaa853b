"""Quantizes weights to 4 bits, with a scale and a minimum for each group of 32 inputs.

The form is that of Q4_1 of llama.cpp: `weight ~ scale * q - minimum`, both in float16. Rounding to
steps between the smallest and the largest weight is only a start: a search over the number of steps
and a line fitted through the rounded weights lower the squared error. All weights of a group count
alike; there is no estimate of the activations.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float16, UInt8
from torch import Tensor

from outrider.models.quantization.grouped import GROUP, Grouped

_TOP = 15
"""The largest integer of 4 bits."""
_STEPS = (15.0, 14.0, 16.0, 13.0, 14.5, 15.5)
"""Steps from the smallest to the largest weight that are tried; more than 15 cut off both ends."""
_REFITS = 2
"""How often the best line of each group is fitted once more, after all steps are tried."""
_CHUNK = 1 << 16
"""Weights that are quantized at once: their copies stay in the cache of a core."""


def quantize_int4(weight: Float[Tensor, "outputs inputs"]) -> Grouped:
    """Round each group of 32 inputs to 16 levels, with little squared error.

    The error of a group is never larger than that of 15 equal steps between its extremes. A
    constant group gets scale 0. A group that holds NaN, infinity or a value beyond float16 gets
    scale NaN, so that the error is visible in every product.

    Args:
        weight: the matrix, of any floating type; it is read in parts.
    """
    outputs, inputs = weight.shape
    groups = -(-inputs // GROUP)
    scales = torch.empty(outputs, groups, dtype=torch.float16)
    minimums = torch.empty_like(scales)
    quants = torch.empty(outputs, groups * GROUP, dtype=torch.uint8)
    rows = max(1, _CHUNK // max(1, groups * GROUP))
    for first in range(0, outputs, rows):
        part = slice(first, first + rows)
        fitted = _quantize(_in_groups(weight[part].float()))
        scales[part] = fitted.scales.view(-1, groups)
        minimums[part] = fitted.minimums.view(-1, groups)
        quants[part] = fitted.quants.t().reshape(-1, groups * GROUP)
    return Grouped(
        bits=4,
        zero=0,
        span=GROUP,
        quants=quants[:, :inputs].contiguous(),
        scales=scales,
        minimums=minimums,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    scales: Float16[Tensor, " groups"]
    minimums: Float16[Tensor, " groups"]
    quants: UInt8[Tensor, "32 groups"]


def _in_groups(weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "32 groups"]:
    """Return one column for each group: sums over its weights are then sums of whole rows.

    The last group of a row is filled with its last weight, which moves no extreme.
    """
    if missing := -weight.shape[1] % GROUP:
        weight = F.pad(weight[None], (0, missing), mode="replicate")[0]
    return weight.reshape(-1, GROUP).t().contiguous()


def _quantize(weight: Float[Tensor, "32 groups"]) -> _Fitted:
    """Search the best line through each group."""
    least, most = torch.aminmax(weight, dim=0)
    usable = least.isfinite() & most.isfinite()
    if not bool(usable.all()):
        weight = torch.where(usable, weight, 0.0)
        least, most = torch.aminmax(weight, dim=0)
    search = _Search(weight, (most - least) / _TOP, least)
    for steps in _STEPS:
        scale = (most - least) / steps
        bottom = (least + most - _TOP * scale) / 2 if steps > _TOP else least
        search.offer(*search.refit(scale, bottom))
    for _ in range(_REFITS):
        search.offer(*search.refit(*search.line))
    return search.result(usable)


class _Search:
    """The best line of each group so far: `weight ~ scale * q + bottom`, in values of float16."""

    def __init__(
        self,
        weight: Float[Tensor, "32 groups"],
        scale: Float[Tensor, " groups"],
        bottom: Float[Tensor, " groups"],
    ) -> None:
        self._weight = weight
        self._mean = weight.mean(dim=0)
        self._work = torch.empty_like(weight)
        self._quants = torch.empty_like(weight)
        self._scale, self._bottom = _halves(scale), _halves(bottom)
        self._error = self._error_of(self._scale, self._bottom)

    @property
    def line(self) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
        """Scale and bottom of the best lines."""
        return self._scale, self._bottom

    def refit(
        self, scale: Float[Tensor, " groups"], bottom: Float[Tensor, " groups"]
    ) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
        """Round to a line, and return the line of least squares through the rounded weights."""
        q = self._round(scale, bottom)
        mean = q.mean(dim=0)
        product = torch.mul(q, self._weight, out=self._work).sum(dim=0)
        square = torch.mul(q, q, out=self._work).sum(dim=0)
        spread = square - GROUP * mean * mean
        fitted = (product - GROUP * mean * self._mean) / spread
        scale = torch.where(spread > 0, fitted, scale)
        return scale, self._mean - scale * mean

    def offer(self, scale: Float[Tensor, " groups"], bottom: Float[Tensor, " groups"]) -> None:
        """Keep a line where its error is smaller."""
        scale, bottom = _halves(scale), _halves(bottom)
        error = self._error_of(scale, bottom)
        better = error < self._error
        self._error = torch.where(better, error, self._error)
        self._scale = torch.where(better, scale, self._scale)
        self._bottom = torch.where(better, bottom, self._bottom)

    def result(self, usable: Bool[Tensor, " groups"]) -> _Fitted:
        """Return the integers of the best lines; groups that are not usable get scale NaN."""
        usable = usable & self._scale.isfinite() & self._bottom.isfinite()
        quants = self._round(self._scale, self._bottom).nan_to_num_(0.0).to(torch.uint8)
        return _Fitted(
            scales=torch.where(usable, self._scale, torch.nan).half(),
            minimums=torch.where(usable, -self._bottom, 0.0).half(),
            quants=quants,
        )

    def _round(
        self, scale: Float[Tensor, " groups"], bottom: Float[Tensor, " groups"]
    ) -> Float[Tensor, "32 groups"]:
        """Return the nearest integers, as floats; they are overwritten by the next call."""
        steps = torch.where(scale != 0, 1 / scale, 0.0)
        torch.sub(self._weight, bottom, out=self._quants)
        return self._quants.mul_(steps).round_().clamp_(0, _TOP)

    def _error_of(
        self, scale: Float[Tensor, " groups"], bottom: Float[Tensor, " groups"]
    ) -> Float[Tensor, " groups"]:
        """Return the squared error of each group."""
        q = self._round(scale, bottom)
        rest = torch.mul(q, scale, out=self._work).add_(bottom).sub_(self._weight)
        return rest.square_().sum(dim=0)


def _halves(values: Float[Tensor, " groups"]) -> Float[Tensor, " groups"]:
    """Round to float16, and return float32."""
    return values.half().float()
