"""Divergences between the target's row and the draft model's, over the same outcomes."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

_SHARE = 0.9
"""Weight of the target in the mixture of the Jensen-Shannon divergence."""

LogProbs = Float[Tensor, "rows outcomes"]
Loss = Callable[[LogProbs, LogProbs], Float[Tensor, " rows"]]


def forward_kl(target: LogProbs, draft: LogProbs) -> Float[Tensor, " rows"]:
    """Return `KL(target || draft)`: the draft model is to cover what the target may write."""
    return _kl(target, draft)


def reverse_kl(target: LogProbs, draft: LogProbs) -> Float[Tensor, " rows"]:
    """Return `KL(draft || target)`: the draft model is to propose nothing that the target would not
    write."""
    return _kl(draft, target)


def jensen_shannon(target: LogProbs, draft: LogProbs) -> Float[Tensor, " rows"]:
    """Return `0.9 KL(target || m) + 0.1 KL(draft || m)` with `m = 0.9 target + 0.1 draft`."""
    shares = torch.tensor([_SHARE, 1 - _SHARE]).log()
    mixed = torch.logaddexp(target + shares[0], draft + shares[1])
    return _SHARE * _kl(target, mixed) + (1 - _SHARE) * _kl(draft, mixed)


LOSSES: Mapping[str, Loss] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "js": jensen_shannon,
}
"""Losses by the names of the option `loss`."""

_LEAST = -60.0
"""Log-probability that counts as 0: its differences would be infinite or undefined."""


def _kl(p: LogProbs, q: LogProbs) -> Float[Tensor, " rows"]:
    p, q = p.clamp(min=_LEAST), q.clamp(min=_LEAST)
    return (p.exp() * (p - q)).sum(-1)
