"""Mixes next-token scores of several sources into one: the operation behind guidance.

Contrastive decoding, classifier-free guidance, proxy tuning and related methods differ in the
sources, in the space of the sum, in the weights, and in the rows that are mixed.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Space = Literal["logits", "logprob", "prob"]


def mix(
    sources: Sequence[Float[Tensor, "rows vocab"]],
    weights: Sequence[float],
    *,
    space: Space = "logits",
    alpha: float = 0.0,
    reference: int = 0,
    gate: Bool[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows vocab"]:
    """Return the weighted sum of sources, as scores whose softmax is the mixed distribution.

    Sources with weight 0 are ignored. A token that a source with a positive weight excludes (-inf)
    is excluded. A token that only a source with a negative weight excludes gets +inf, which
    samplers refuse. Sums use float32 at least, one operation at a time, so that a row does not
    depend on other rows.

    Args:
        sources: logits of each source over one vocabulary; the first is the base.
        weights: one for each source.
        space: the values to add: logits, log-probabilities, or probabilities. Negative
            probabilities become 0.
        alpha: tokens less than `alpha` times as likely as the most likely one, by the source
            `reference`, are excluded (Li et al., arXiv 2210.15097); 0 keeps all.
        reference: index of the source for `alpha`.
        gate: rows to mix; the others equal the base. None mixes all.

    Raises:
        ValueError: sources differ in their vocabularies, or numbers of sources and weights differ.
    """
    if len(sources) != len(weights) or not sources:
        raise ValueError(f"there are {len(sources)} sources, but {len(weights)} weights")
    sizes = {source.shape[-1] for source in sources}
    if len(sizes) > 1:
        raise ValueError(f"the sources have different vocabulary sizes: {sorted(sizes)}")
    parts = [(s, w) for s, w in zip(sources, weights, strict=True) if w != 0.0]
    if len(parts) == 1 and parts[0][1] == 1.0:
        scores = parts[0][0]
    else:
        scores = _sum(parts, space, like=sources[0])
    if alpha > 0.0:
        probs = torch.softmax(wide(sources[reference]), dim=-1)
        unlikely = probs < alpha * probs.amax(dim=-1, keepdim=True)
        scores = scores.masked_fill(unlikely, -torch.inf)
    if gate is not None:
        scores = torch.where(gate[:, None], scores, sources[0].to(scores.dtype))
    return scores


def _sum(parts: Sequence[tuple[Tensor, float]], space: Space, like: Tensor) -> Tensor:
    total = torch.zeros_like(wide(like))
    excluded = torch.zeros_like(total, dtype=torch.bool)
    for logits, weight in parts:
        term = _in_space(wide(logits), space) * weight
        total = total + term
        if weight > 0.0:
            excluded |= term == -torch.inf
    if space == "prob":
        return total.clamp(min=0.0).log()
    return total.masked_fill(excluded, -torch.inf)


def _in_space(logits: Tensor, space: Space) -> Tensor:
    if space == "logits":
        return logits
    if space == "logprob":
        return torch.log_softmax(logits, dim=-1)
    return torch.softmax(logits, dim=-1)


def wide(logits: Tensor) -> Tensor:
    """Return logits in float32; those in float64 as they are."""
    return logits if logits.dtype is torch.float64 else logits.float()
