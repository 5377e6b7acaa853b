"""Warps: which tokens of a processed row remain candidates, and with what weight.

The kept support equals that of `transformers` for the same settings and the same order
(temperature, top-k, top-p, min-p, typical-p). It is computed by selecting before sorting, because a
full sort of a row takes as long as a small forward.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_HEAD = 256
"""Number of candidates that are tried before a whole row is sorted for top-p."""


@dataclass(frozen=True, slots=True)
class Support:
    """The candidate tokens, on the CPU, ids ascending, and their scores (not normalised)."""

    ids: Int[Tensor, " kept"]
    scores: Float[Tensor, " kept"]

    def probabilities(self) -> Float[Tensor, " kept"]:
        """Return the probabilities of the candidates, float64, which sum to one."""
        return torch.softmax(self.scores.double(), dim=-1)

    def probs(self, vocab_size: int) -> Float[Tensor, " vocab"]:
        """Return the distribution over the whole vocabulary, zero outside the support."""
        probs = torch.zeros(vocab_size, dtype=torch.float64)
        probs[self.ids] = self.probabilities()
        return probs

    def keep(self, mask: Tensor) -> "Support":
        """Return the part of the support where `mask` is true."""
        return Support(self.ids[mask], self.scores[mask])


def warp(
    scores: Float[Tensor, " vocab"],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
) -> Support:
    """Return the support that remains after the warps. At temperature 0 it is the best token only.

    Tokens with a score of -inf are never part of it.
    """
    if temperature == 0:
        best = scores.argmax().reshape(1).cpu()
        return Support(best, scores.max().reshape(1).cpu())
    scores = scores / temperature
    support = _top_k(scores, top_k) if 0 < top_k < scores.numel() else _finite(scores)
    if top_p < 1.0:
        support = _top_p(support, top_p)
    if min_p > 0.0:
        support = support.keep(support.scores >= support.scores.max() + _log(min_p))
    if typical_p < 1.0:
        support = _typical_p(support, typical_p)
    return support


def _log(value: float) -> float:
    return float(torch.log(torch.tensor(value, dtype=torch.float64)))


def _finite(scores: Tensor) -> Support:
    scores = scores.cpu()
    ids = torch.nonzero(scores > -torch.inf).flatten()
    return Support(ids, scores[ids])


def _top_k(scores: Tensor, k: int) -> Support:
    """Return all tokens with at least the k-th best score; ties with it are kept, as in
    `transformers`.
    """
    kth = torch.topk(scores, k).values[-1]
    mask = (scores >= kth) & (scores > -torch.inf)
    ids = torch.nonzero(mask).flatten()
    return Support(ids.cpu(), scores[ids].cpu())


def _top_p(support: Support, p: float) -> Support:
    """Return the smallest set of best tokens with a mass of at least p; never empty.

    Among equally likely tokens at its edge, the lowest ids are kept, independent of the sort order.
    """
    probs = support.probabilities()
    best = torch.topk(probs, min(_HEAD, probs.numel())).values
    if best.numel() < probs.numel() and best.sum() < p:
        best = torch.from_numpy(np.sort(probs.numpy())).flip(0)  # NumPy sorts values faster
    mass_before = best.cumsum(0) - best
    size = max(1, int((mass_before < p).sum()))
    edge = best[size - 1]
    mask = probs > edge
    ties = torch.nonzero(probs == edge).flatten()
    mask[ties[: size - int(mask.sum())]] = True
    return support.keep(mask)


def _typical_p(support: Support, mass: float) -> Support:
    """Locally typical sampling (Meister et al. 2022): keeps tokens whose information content is
    close to the entropy."""
    logp = torch.log_softmax(support.scores.double(), dim=-1)
    probs = logp.exp()
    distance = ((-logp) + (logp * probs).sum()).abs()
    ordered, order = torch.sort(distance, stable=True)
    last = int((probs[order].cumsum(0) < mass).sum().clamp(max=probs.numel() - 1))
    return support.keep(distance <= ordered[last])
