"""Divergences between the verifier's next-token distribution and the proposer's.

All divergences use raw logits: no temperature, no warp, no penalty. They are computed in log space,
in float32 (float64 stays float64). A logit of -inf is a token with probability zero; a smaller
vocabulary is padded with such tokens. If two distributions have no token in common, the divergences
without a maximum are infinite. A row without a valid distribution (NaN, +inf, or only -inf) gives
NaN, which is within no threshold.

Names follow "Fuzzy Speculative Decoding" (Holsman, Huang and Dhingra 2025): d is the proposer's
distribution, v the verifier's, m their mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax, pad

from outrider.core.errors import OptionError, nearest

Measure = Callable[[Tensor, Tensor], Tensor]
"""`(log d [rows, events], log v [rows, events]) -> [rows]`."""

TOP_K = 50
"""Number of the verifier's best tokens that the `topk_` divergences distinguish; all other tokens
form one event."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """One divergence with its name. A threshold is meaningful only together with the name.

    Attributes:
        name: the key under which thresholds and calibrations are stored.
        measure: the function of the two distributions; None for `logp_abs`, which depends on the
            token.
        maximum: the largest possible value.
        top_k: how many of the verifier's best tokens are distinguished; None for all.
    """

    name: str
    measure: Measure | None
    maximum: float = math.inf
    top_k: int | None = None

    @property
    def reads_token(self) -> bool:
        """Whether the value depends on the proposed token and not only on the two distributions."""
        return self.measure is None

    def __call__(
        self,
        proposer_logits: Float[Tensor, " vocab_d"],
        verifier_logits: Float[Tensor, " vocab_v"],
        token: int | None = None,
    ) -> float:
        """Return the divergence of one row; only `logp_abs` uses `token`."""
        tokens = None if token is None else torch.tensor([token])
        value = float(self.rows(proposer_logits[None], verifier_logits[None], tokens))
        # The float32 value next to ln 2 is above ln 2, but a threshold of ln 2 must accept every
        # distribution.
        return min(value, self.maximum)

    def rows(
        self,
        proposer_logits: Float[Tensor, "rows vocab_d"],
        verifier_logits: Float[Tensor, "rows vocab_v"],
        tokens: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, " rows"]:
        """Return the divergence of each row.

        Raises:
            ValueError: tokens are missing, but the divergence depends on them.
        """
        width = max(proposer_logits.shape[-1], verifier_logits.shape[-1])
        d, v = _log_probs(proposer_logits, width), _log_probs(verifier_logits, width)
        if self.measure is None:
            return _logp_abs(d, v, tokens)
        if self.top_k is not None:
            d, v = _coarse(d, v, self.top_k)
        # Rounding can exceed the range by a few ulps; clamp keeps NaN.
        return self.measure(d, v).clamp(0.0, self.maximum)


def _log_probs(logits: Tensor, width: int) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return log_softmax(pad(wide, (0, width - wide.shape[-1]), value=-torch.inf), dim=-1)


def _coarse(d: Tensor, v: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Reduce both distributions to the verifier's `k` best tokens and one event for all others."""
    best = v.topk(min(k, v.shape[-1]), dim=-1).indices
    return _with_rest(d, best), _with_rest(v, best)


def _with_rest(log_probs: Tensor, best: Tensor) -> Tensor:
    rest = log_probs.scatter(-1, best, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat((log_probs.gather(-1, best), rest), dim=-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) of log-distributions. An event with probability zero under p contributes
    nothing, regardless of q; `~(weight <= 0)` preserves NaN.
    """
    weight = p.exp()
    return torch.where(~(weight <= 0), weight * (p - q), 0.0).sum(-1)


def _mean(d: Tensor, v: Tensor) -> Tensor:
    return torch.logaddexp(d, v) - math.log(2.0)


def _kl_dv(d: Tensor, v: Tensor) -> Tensor:
    return _kl(d, v)


def _kl_vd(d: Tensor, v: Tensor) -> Tensor:
    return _kl(v, d)


def _js(d: Tensor, v: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence: KL(d || m) / 2 + KL(v || m) / 2."""
    m = _mean(d, v)
    return (_kl(d, m) + _kl(v, m)) / 2


def _js_fsd(d: Tensor, v: Tensor) -> Tensor:
    """Return KL(m || d) / 2 + KL(m || v) / 2: the divergence of the published fuzzy decoding
    thresholds.
    """
    m = _mean(d, v)
    return (_kl(m, d) + _kl(m, v)) / 2


def _tv(d: Tensor, v: Tensor) -> Tensor:
    """Return the total variation: sum |d - v| / 2."""
    return (d.exp() - v.exp()).abs().sum(-1) / 2


def _logp_abs(d: Tensor, v: Tensor, tokens: Tensor | None) -> Tensor:
    """Return |log d(x) - log v(x)| for the proposed token x; infinite if either probability is
    zero.
    """
    if tokens is None:
        raise ValueError("logp_abs needs the proposed tokens, but none are given")
    tokens = tokens.to(d.device)
    inside = tokens < d.shape[-1]
    column = tokens.where(inside, 0)[:, None]
    ours, theirs = d.gather(-1, column)[:, 0], v.gather(-1, column)[:, 0]
    possible = inside & ~(ours == -torch.inf) & ~(theirs == -torch.inf)
    return torch.where(possible, (ours - theirs).abs(), torch.inf)


_LN2 = math.log(2.0)

DIVERGENCES: dict[str, Divergence] = {
    d.name: d
    for d in (
        Divergence("js", _js, _LN2),
        Divergence("tv", _tv, 1.0),
        Divergence("kl_dv", _kl_dv),
        Divergence("kl_vd", _kl_vd),
        Divergence("js_fsd", _js_fsd),
        Divergence("logp_abs", None),
        Divergence("topk_js", _js, _LN2, TOP_K),
        Divergence("topk_tv", _tv, 1.0, TOP_K),
        Divergence("topk_kl_dv", _kl_dv, top_k=TOP_K),
        Divergence("topk_kl_vd", _kl_vd, top_k=TOP_K),
        Divergence("topk_js_fsd", _js_fsd, top_k=TOP_K),
    )
}
"""All divergences by name."""


def divergence(name: str) -> Divergence:
    """Return the divergence called `name`. Raises `OptionError` with the nearest known name."""
    if name not in DIVERGENCES:
        raise OptionError(f"unknown divergence {name!r}", hint=nearest(name, DIVERGENCES))
    return DIVERGENCES[name]
