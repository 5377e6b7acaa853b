"""Transfers between host and device: uploads do not wait; one function waits for results."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from outrider.core.types import IntArray


def upload(target: Tensor, values: np.ndarray) -> None:
    """Write `values` to `target`, in order with earlier work of the device.

    Every upload takes its own pinned buffer. PyTorch's allocator of pinned memory reuses a buffer
    only after the copies from it are done, so the host does not have to wait.
    """
    source = torch.from_numpy(np.ascontiguousarray(values))
    if target.is_cuda:
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)


def fetch(values: Int[Tensor, " n"]) -> IntArray:
    """Return `values` on the host when the device has computed them: the only wait of a round."""
    if not values.is_cuda:
        return values.numpy().copy()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(values.device))
    done.synchronize()
    return host.numpy()
