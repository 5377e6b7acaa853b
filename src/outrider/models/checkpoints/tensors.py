"""The location of a tensor in a file, and how it is read."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.models.quantization.grouped import Grouped
from outrider.models.quantization.stored_blocks import Blocks


@runtime_checkable
class Stored(Protocol):
    """One quantised tensor of a checkpoint; its file is read when a method is called.

    Both methods raise `CheckpointError` for values that are NaN or infinite.
    """

    @property
    def kind(self) -> str:
        """The format in a few characters, such as `Q4_1` or `GPTQ-4`."""
        ...

    @property
    def packed_bytes(self) -> int | None:
        """The bytes of what `grouped` returns, as kernels store it; None if it returns None.

        It follows from the header alone, and so it may be wrong for unusual values.
        """
        ...

    def read(self) -> Float[Tensor, "..."]:
        """Return the float32 values, in the shape of its `TensorInfo`."""
        ...

    def grouped(self) -> Grouped | Blocks | None:
        """Return the integers and scales of the file; None if kernels cannot read them.

        `Blocks` are read, and checked for NaN, when they are used.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """The location of one tensor.

    Attributes:
        file: the file that holds it.
        name: its name in the file; a checkpoint may use another name.
        dtype: the dtype or format as written in the header, such as `BF16` or `Q4_1`.
        shape: its shape.
        offset: its first byte, counted from the start of the file.
        nbytes: its length in bytes.
        change: a function applied when it is loaded, in float32 or float64; None for no change.
        stored: reads a quantised tensor; None for plain numbers.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    change: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)
    stored: Stored | None = field(default=None, compare=False)

    @property
    def num_elements(self) -> int:
        """Number of elements of the tensor."""
        return math.prod(self.shape)


def check_finite(tensor: Tensor, name: str, place: str | Path) -> None:
    """Raise an error if a tensor holds NaN or infinite values.

    The smallest and the largest value show it: one pass without another tensor. Tensors of one
    byte a number and integers are not checked.

    Args:
        tensor: the tensor, as stored.
        name: its name in the message.
        place: the file or folder that holds it.

    Raises:
        CheckpointError: names the file and the tensor.
    """
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2 or not tensor.numel():
        return
    if tensor.is_meta:
        return
    least, most = torch.aminmax(tensor.detach())
    if not bool(torch.isfinite(least) & torch.isfinite(most)):
        kind = "NaN" if bool(torch.isnan(most)) else "infinite"
        raise CheckpointError(
            f"{place} holds {kind} values in {name}",
            hint="Train or convert it again, or download it again",
        )
