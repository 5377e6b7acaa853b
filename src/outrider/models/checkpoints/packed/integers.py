"""A quantised matrix as integers, scales and zero points, as in GPTQ, AWQ and others."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int16, Int32, UInt8
from torch import Tensor

from outrider.kernels.layout import GROUPS4, GROUPS4_FINE, GROUPS8, grouped_bytes
from outrider.models.checkpoints.packed.parts import Parts
from outrider.models.quantization.grouped import GROUP, Grouped


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """`weight[o, i] = scales[o, g] * (quants[o, i] - zeros[o, g])`.

    `g` is `order[i]`, and `i // group` without an order.

    Attributes:
        bits: 4 or 8; `quants` lie below `2 ** bits`.
        group: inputs that share a scale.
        quants: the integers.
        scales: one for each output and group, of any floating type.
        zeros: the integers that stand for 0.
        order: the group of each input; None if groups follow each other.
    """

    bits: int
    group: int
    quants: UInt8[Tensor, "outputs inputs"]
    scales: Float[Tensor, "outputs groups"]
    zeros: Int16[Tensor, "outputs groups"]
    order: Int32[Tensor, " inputs"] | None = None

    def weights(self) -> Float[Tensor, "outputs inputs"]:
        """Return the float32 weights; each is rounded once at most."""
        weight = self.quants.float()
        weight -= self._spread(self.zeros.float())
        weight *= self._spread(self.scales.float())
        return weight

    def grouped(self) -> Grouped | None:
        """Return the view of the kernels.

        None if it cannot hold the matrix exactly: groups in another order or not of whole 32s,
        scales that are no numbers of float16, or 8 bits with zero points other than 128.
        """
        inputs, groups = self.quants.shape[1], self.scales.shape[1]
        span = self.group if groups > 1 else -(-inputs // GROUP) * GROUP
        halves = self.scales.half()
        plain = self.order is None or torch.equal(self.order, self._in_order())
        if not plain or span % GROUP or not torch.equal(halves.float(), self.scales.float()):
            return None
        middle = 1 << (self.bits - 1)
        symmetric = bool((self.zeros == middle).all())
        if not symmetric and (self.bits == 8 or int(self.zeros.min()) < 0):
            return None
        return Grouped(
            bits=self.bits,
            zero=middle if symmetric else 0,
            span=span,
            quants=self.quants,
            scales=halves,
            minimums=None if symmetric else halves,
            fine_minimums=None if symmetric else self._fine_zeros(span),
        )

    def _fine_zeros(self, span: int) -> UInt8[Tensor, "outputs fine"]:
        """Return the zero points of all groups of 32."""
        fine = self.zeros.to(torch.uint8).repeat_interleave(span // GROUP, dim=1)
        return fine[:, : -(-self.quants.shape[1] // GROUP)].contiguous()

    def _in_order(self) -> Int32[Tensor, " inputs"]:
        return torch.arange(self.quants.shape[1], dtype=torch.int32) // self.group

    def _spread(self, values: Float[Tensor, "outputs groups"]) -> Float[Tensor, "outputs inputs"]:
        """Return the value of each input."""
        order = self._in_order() if self.order is None else self.order
        return values[:, order.long()]


def packed_bytes(
    shape: tuple[int, int],
    bits: int,
    group: int,
    scales: str,
    *,
    symmetric: bool,
    ordered: bool = False,
) -> int | None:
    """Return the bytes of what `Integers.grouped` returns, from the header; None for None.

    Args:
        shape: outputs and inputs.
        bits: 4 or 8.
        group: inputs that share a scale.
        scales: their dtype.
        symmetric: whether the middle integer stands for 0.
        ordered: whether groups are in another order.
    """
    outputs, inputs = shape
    span = group if group < inputs else -(-inputs // GROUP) * GROUP
    if ordered or span % GROUP or scales == "F32" or (bits == 8 and not symmetric):
        return None
    kind = GROUPS8 if bits == 8 else GROUPS4 if symmetric else GROUPS4_FINE
    return grouped_bytes(kind, outputs, inputs, span)


@dataclass(frozen=True, slots=True)
class StoredIntegers:
    """A `Stored` tensor whose integers are read when they are needed.

    Attributes:
        kind: the format in a few characters.
        parts: the tensors that store it.
        load: reads the integers.
        packed_bytes: see `Stored`.
    """

    kind: str
    parts: Parts
    load: Callable[[], Integers]
    packed_bytes: int | None

    def read(self) -> Float[Tensor, "outputs inputs"]:
        """Return the float32 weights."""
        return self.parts.finite(self.load().weights())

    def grouped(self) -> Grouped | None:
        """Return the view of the kernels; None if it cannot hold the matrix exactly."""
        return self.load().grouped()
