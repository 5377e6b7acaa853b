"""Reduces rows of logits to what memories store: the best tokens and their values."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider import kernels
from outrider.kernels.topk import MOST


class Best(NamedTuple):
    """The best tokens of some rows, best first.

    Attributes:
        ids: `[rows, k]`; -1 in all entries of rows without a valid distribution (NaN, +inf, all
            -inf), and in entries that a small vocabulary cannot fill.
        values: `[rows, k]` logits or probabilities, depending on the function.
    """

    ids: NDArray[np.int32]
    values: NDArray[np.float32]


def best_tokens(logits: Float[Tensor, "rows vocab"], k: int) -> Best:
    """Return the k best tokens of each row and their logits."""
    if _compiled(logits, k):
        ids, values, _ = kernels.topk(logits, k)
        return Best(ids, values)
    return _plain(logits, k)


def best_probabilities(logits: Float[Tensor, "rows vocab"], k: int) -> Best:
    """Return the k most likely tokens of each row and their probabilities at temperature 1."""
    if _compiled(logits, k):
        ids, values, totals = kernels.topk(logits, k, totals=True)
    else:
        ids, values = _plain(logits, k)
        totals = torch.logsumexp(logits.float(), dim=-1).cpu().numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        likely = np.exp(values - totals[:, None])
    return Best(ids, np.where(ids >= 0, likely, np.float32(0.0)))


def _compiled(logits: Tensor, k: int) -> bool:
    return (
        k <= MOST
        and logits.dtype is torch.float32
        and logits.is_cpu
        and logits.stride(-1) == 1
        and kernels.available()
    )


def _plain(logits: Tensor, k: int) -> Best:
    """Return the k best tokens by torch, for other dtypes and devices."""
    rows, vocab = logits.shape
    size = min(k, vocab)
    ids = np.full((rows, k), -1, dtype=np.int32)
    values = np.full((rows, k), -np.inf, dtype=np.float32)
    top = torch.topk(logits, size, dim=-1)  # NaN sorts first, so one check is enough
    values[:, :size] = top.values.float().cpu().numpy()
    ids[:, :size] = top.indices.cpu().numpy()
    broken = ~np.isfinite(values[:, 0])
    ids[broken], values[broken] = -1, -np.inf
    return Best(ids, values)
