"""Tensors that a file stores in another form than plain numbers."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from outrider.models.quantization.grouped import Grouped


@runtime_checkable
class Stored(Protocol):
    """One quantised tensor of a checkpoint; its file is read when a method is called.

    Both methods raise `CheckpointError` for values that are NaN or infinite.
    """

    @property
    def kind(self) -> str:
        """The format in a few characters, such as `Q4_1` or `GPTQ-4`."""
        ...

    def read(self) -> Float[Tensor, "..."]:
        """Return the float32 values, in the shape of its `TensorInfo`."""
        ...

    def grouped(self) -> Grouped | None:
        """Return the integers and scales of the file; None if `Grouped` cannot hold them."""
        ...
