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
    cap: float,
) -> Float[Tensor, "queries kept"]:
    """Return the attention of queries to keys, averaged over the query heads that share the keys.

    Args:
        queries: multiplied by the factor of the scores.
        keys: of one key-value head.
        query_rows: rows of the queries; a query sees keys of rows up to its own.
        key_rows: rows of the keys.
        cap: soft cap of the scores; 0: none.
    """
    scores = torch.einsum("qgd,kd->qgk", queries.to(keys.dtype), keys)
    if cap:
        scores = cap * torch.tanh(scores / cap)
    hidden = torch.from_numpy(key_rows)[None] > torch.from_numpy(query_rows)[:, None]
    scores = scores.masked_fill(hidden[:, None].to(scores.device), -torch.inf)
    return torch.nan_to_num(scores.softmax(dim=-1)).mean(dim=1)


def best(scores: Scores, count: int) -> Int[Tensor, " count"]:
    """Return the indices of the highest scores, ascending; of equal ones, the first."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values
