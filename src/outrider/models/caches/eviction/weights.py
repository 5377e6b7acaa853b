"""How much attention keys get from queries: scores of the policies that weigh rows."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.types import IntArray

Scores = Float[Tensor, " kept"]


def received(
    queries: Float[Tensor, "queries group head_dim"],
    keys: Float[Tensor, "kept head_dim"],
    query_rows: IntArray,
    key_rows: IntArray,
    *,
    before: int | None = None,
    cap: float = 0,
) -> Float[Tensor, "queries kept"]:
    """Return the attention of queries to keys, averaged over the query heads that share the keys.

    Args:
        queries: multiplied by the factor of the scores.
        keys: of one key-value head.
        query_rows: rows of the queries; a query sees keys of rows up to its own.
        key_rows: rows of the keys.
        before: only keys of rows before this one take part; None: all.
        cap: soft cap of the scores; 0: none.
    """
    scores = torch.einsum("qgd,kd->qgk", queries.to(keys.dtype), keys)
    if cap:
        scores = cap * torch.tanh(scores / cap)
    hidden = _numbers(key_rows)[None] > _numbers(query_rows)[:, None]
    if before is not None:
        hidden = hidden | (_numbers(key_rows)[None] >= before)
    scores = scores.masked_fill(hidden[:, None].to(scores.device), -torch.inf)
    return torch.nan_to_num(scores.softmax(dim=-1)).mean(dim=1)


def best(scores: Scores, count: int) -> Int[Tensor, " count"]:
    """Return the indices of the highest scores, ascending; of equal ones, the first."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def _numbers(rows: IntArray) -> Int[Tensor, " rows"]:
    return torch.from_numpy(rows)
