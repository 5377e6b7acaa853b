"""Refuses tensors that hold NaN or infinite values."""

from pathlib import Path

import torch
from torch import Tensor

from outrider.core.errors import CheckpointError


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
