"""Between host and device: uploads that wait for nothing, and the one place that does wait."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from outrider.core.types import IntArray


def upload(target: Tensor, values: np.ndarray) -> None:
    """Write `values` into `target`, behind what the device has been told to do so far.

    Every upload takes a pinned buffer of its own. PyTorch's allocator of pinned memory gives a
    buffer out again only when the copies from it are done, so the host may run ahead.
    """
    source = torch.from_numpy(np.ascontiguousarray(values))
    if target.is_cuda:
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)


def fetch(values: Int[Tensor, " n"]) -> IntArray:
    """`values` on the host, once the device has them: the only wait of a round."""
    if not values.is_cuda:
        return values.numpy().copy()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(values.device))
    done.synchronize()
    return host.numpy()
