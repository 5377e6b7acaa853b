"""Updates running means of distributions with the compiled kernel."""

import numpy as np
from numpy.typing import NDArray

from outrider.kernels.library import library


def blend(
    slots: NDArray[np.int64],
    sources: NDArray[np.int64],
    row_ids: NDArray[np.int32],
    row_values: NDArray[np.float32],
    ids: NDArray[np.int32],
    means: NDArray[np.float32],
    counts: NDArray[np.int32],
) -> None:
    """Add row `sources[i]` to the mean in `slots[i]`, for each i in order.

    `row_ids` and `row_values` are `[rows, k]`; `ids` and `means` `[slots, k]` and `counts`
    `[slots]` are changed in place. All arrays are C-contiguous, and k is at most 64.
    """
    loaded = library()
    assert loaded is not None
    assert row_ids.shape == row_values.shape and row_ids.shape[1] == ids.shape[1]
    arrays = (row_ids, row_values, ids, means, counts)
    assert all(array.flags.c_contiguous for array in arrays)
    loaded.outrider_blend(
        len(slots),
        slots.ctypes.data,
        sources.ctypes.data,
        ids.shape[1],
        *(array.ctypes.data for array in arrays),
    )
