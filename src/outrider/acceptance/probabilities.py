"""Shared by the rejection rules: the distribution a node was drawn from, and the residual of the
target's distribution after a rejection."""

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import Draft


def drawn_probs(draft: Draft, node: int, vocab_size: int) -> Float[Tensor, " wide"]:
    """Return the distribution `node` was drawn from, at least as wide as the verifier's vocabulary.
    A node without a distribution was picked deterministically, which is a point mass.
    """
    own = None if draft.probs is None else draft.probs[node]
    token = int(draft.tokens[node])
    probs = torch.zeros(
        max(vocab_size, token + 1 if own is None else own.numel()), dtype=torch.float64
    )
    if own is None:
        probs[token] = 1.0
    else:
        probs[: own.numel()] = own
    return probs


def residual(
    target: Float[Tensor, " vocab"], drafted: Float[Tensor, " wide"]
) -> Float[Tensor, " vocab"]:
    """Return max(t - r, 0), not normalised. If rounding leaves only zeros, the two distributions
    are equal and the result is t.
    """
    left = (target - drafted[: target.numel()]).clamp(min=0.0)
    return left if float(left.sum()) > 0 else target


def trials(draft: Draft, node: int) -> list[int]:
    """Return the children of `node` in the order in which they were drawn.

    A child through which several independent continuations pass (`Draft.samples`) was drawn several
    times and is listed as many times. Testing it only once would ignore repeated draws and bias the
    result, because whether a draw is repeated depends on its value.
    """
    children = draft.children(node)
    if draft.samples is None:
        return children
    drawn = [(sample, child) for child in children for sample in draft.samples[child]]
    return [child for _, child in sorted(drawn)]
