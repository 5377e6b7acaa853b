"""Reads token ids in all supported forms: lists, tuples, NumPy arrays and tensors."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from torch import Tensor

from outrider.core.checks import shown
from outrider.core.errors import OptionError

HIGHEST_ID = 2**31 - 1
"""Ids beyond this one are in no vocabulary, and do not fit into the kernels' integers."""

_HINT = "Give token ids: whole numbers from 0"


def is_array(value: object) -> bool:
    """Whether `value` is an array or tensor."""
    return isinstance(value, Tensor | np.ndarray)


def read_ids(value: object) -> tuple[int, ...]:
    """Read the ids of one prompt.

    Args:
        value: a sequence, an array or a tensor, of one dimension.

    Raises:
        OptionError: it holds something else than token ids.
    """
    entries: object = value
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim != 1:
            raise OptionError(
                f"the prompt is an array of shape {tuple(value.shape)}",
                hint="Give one dimension for a prompt, two for several",
            )
        entries = value.tolist()
    if isinstance(entries, str | bytes | bytearray) or not isinstance(entries, Sequence):
        raise OptionError(f"the prompt is {entries!r:.60}", hint=_HINT)
    return tuple(_id(entry) for entry in entries)


def _id(entry: object) -> int:
    if isinstance(entry, Tensor | np.ndarray) and entry.ndim == 0:
        entry = entry.item()
    if isinstance(entry, bool | np.bool_) or not isinstance(entry, Integral):
        raise OptionError(f"the prompt holds {entry!r:.40}, which is no token id", hint=_HINT)
    if not 0 <= int(entry) <= HIGHEST_ID:
        raise OptionError(f"the prompt holds the token id {shown(int(entry))}", hint=_HINT)
    return int(entry)
