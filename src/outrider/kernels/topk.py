"""Finds the best tokens of rows of scores with the compiled kernel."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.kernels.library import library

MOST = 64
"""The largest k that the kernel supports."""


def topk(
    logits: Float[Tensor, "rows vocab"], k: int, *, totals: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Return ids and scores `[rows, k]`, best first; equal scores are ordered by id.

    `logits` are float32 on the CPU with contiguous rows; k is at most `MOST`. With `totals`, the
    third array `[rows]` holds the log of each row's sum of exponentials; otherwise it is empty.
    Rows without a valid choice (NaN, +inf, all -inf) have ids of -1, and so have entries beyond
    the vocabulary.
    """
    loaded = library()
    assert loaded is not None
    rows, vocab = logits.shape
    ids = np.empty((rows, k), dtype=np.int32)
    values = np.empty((rows, k), dtype=np.float32)
    sums = np.empty(rows if totals else 0, dtype=np.float32)
    loaded.outrider_topk(
        logits.data_ptr(),
        logits.stride(0),
        rows,
        vocab,
        k,
        ids.ctypes.data,
        values.ctypes.data,
        sums.ctypes.data if totals else None,
    )
    return ids, values, sums
