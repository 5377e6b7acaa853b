"""How far the verifier's next-token distribution is from the one a draft was proposed by.

All measures read raw logits: no temperature, no warp, no penalty. They are computed in log space,
in float32 (float64 stays float64). A logit of -inf is a token without probability; a narrower
vocabulary is padded with such tokens. Distributions that share no token are infinitely far apart by
the measures that have no maximum. A row without any distribution (NaN, +inf, or nothing but -inf)
gives NaN, which is within no threshold.

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
"""Tokens that the `topk_` measures tell apart, the verifier's best; all others are one event."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """One measure by its name. A threshold means nothing without the name.

    Attributes:
        name: the key under which thresholds and calibrations are stored.
        measure: what is computed from the two distributions; None for `logp_abs`, which reads the
            token.
        maximum: the largest value it can take.
        top_k: how many of the verifier's best tokens are told apart; None for all.
    """

    name: str
    measure: Measure | None
    maximum: float = math.inf
    top_k: int | None = None

    @property
    def reads_token(self) -> bool:
        """Whether the value depends on the proposed token, not on the two distributions alone."""
        return self.measure is None

    def __call__(
        self,
        proposer_logits: Float[Tensor, " vocab_d"],
        verifier_logits: Float[Tensor, " vocab_v"],
        token: int | None = None,
    ) -> float:
        """The divergence of one row; `token` is read by `logp_abs` alone."""
        tokens = None if token is None else torch.tensor([token])
        value = float(self.rows(proposer_logits[None], verifier_logits[None], tokens))
        # The float32 next to ln 2 lies above it: a threshold of ln 2 must let every distribution
        # pass.
        return min(value, self.maximum)

    def rows(
        self,
        proposer_logits: Float[Tensor, "rows vocab_d"],
        verifier_logits: Float[Tensor, "rows vocab_v"],
        tokens: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, " rows"]:
        """The divergence of each row.

        Raises:
            ValueError: no tokens were given and the measure reads them.
        """
        width = max(proposer_logits.shape[-1], verifier_logits.shape[-1])
        d, v = _log_probs(proposer_logits, width), _log_probs(verifier_logits, width)
        if self.measure is None:
            return _logp_abs(d, v, tokens)
        if self.top_k is not None:
            d, v = _coarse(d, v, self.top_k)
        # Rounding may leave the range by a few ulps; clamp keeps NaN.
        return self.measure(d, v).clamp(0.0, self.maximum)


def _log_probs(logits: Tensor, width: int) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return log_softmax(pad(wide, (0, width - wide.shape[-1]), value=-torch.inf), dim=-1)


def _coarse(d: Tensor, v: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Both distributions over the verifier's `k` best tokens and one event for all others."""
    best = v.topk(min(k, v.shape[-1]), dim=-1).indices
    return _with_rest(d, best), _with_rest(v, best)


def _with_rest(log_probs: Tensor, best: Tensor) -> Tensor:
    rest = log_probs.scatter(-1, best, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat((log_probs.gather(-1, best), rest), dim=-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-distributions. An event without probability under p adds nothing, whatever
    q says; `~(weight <= 0)` lets NaN through."""
    weight = p.exp()
    return torch.where(~(weight <= 0), weight * (p - q), 0.0).sum(-1)


def _mean(d: Tensor, v: Tensor) -> Tensor:
    return torch.logaddexp(d, v) - math.log(2.0)


def _kl_dv(d: Tensor, v: Tensor) -> Tensor:
    return _kl(d, v)


def _kl_vd(d: Tensor, v: Tensor) -> Tensor:
    return _kl(v, d)


def _js(d: Tensor, v: Tensor) -> Tensor:
    """Jensen-Shannon divergence: KL(d || m) / 2 + KL(v || m) / 2."""
    m = _mean(d, v)
    return (_kl(d, m) + _kl(v, m)) / 2


def _js_fsd(d: Tensor, v: Tensor) -> Tensor:
    """KL(m || d) / 2 + KL(m || v) / 2: what published fuzzy decoding thresholds refer to."""
    m = _mean(d, v)
    return (_kl(m, d) + _kl(m, v)) / 2


def _tv(d: Tensor, v: Tensor) -> Tensor:
    """Total variation: sum |d - v| / 2."""
    return (d.exp() - v.exp()).abs().sum(-1) / 2


def _logp_abs(d: Tensor, v: Tensor, tokens: Tensor | None) -> Tensor:
    """|log d(x) - log v(x)| for the proposed x; infinite where either gives x no probability."""
    if tokens is None:
        raise ValueError("logp_abs reads the proposed tokens, and none were given")
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
"""Every divergence by name."""


def divergence(name: str) -> Divergence:
    """The divergence called `name`. Raises `OptionError` with the nearest known name."""
    if name not in DIVERGENCES:
        raise OptionError(f"unknown divergence {name!r}", hint=nearest(name, DIVERGENCES))
    return DIVERGENCES[name]
