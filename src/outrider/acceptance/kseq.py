"""k-SEQ: tests several independent drafts of one token against a common factor rho."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.acceptance.probabilities import drawn_probs, trials
from outrider.acceptance.verdicts import Walk
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols import Needs
from outrider.protocols.method import Method, Paper
from outrider.protocols.view import View
from outrider.sampling.noise import Purpose

_HALVINGS = 55
_ROUNDING = 1e-13
"""Where the two distributions are equal, both sides are 1 up to this rounding error."""


@dataclass(frozen=True, slots=True)
class KSeq:
    """SpecTr's rule for k independent continuations (Sun et al. 2023, arXiv 2310.15141).

    At each node, the continuations that pass through it (`Draft.samples`), x_1 .. x_k drawn from r,
    are tested in draw order: x is accepted with probability min(1, t(x) / (rho r(x))). Here t is
    the verifier's distribution, and rho, from 1 to k, is the smallest valid factor (`allowance`).
    The test continues with the continuations that share the accepted token. If none passes, the
    next token is drawn from the remainder of t (`leftover`).

    A child drawn by several continuations is tested once for each of them: k counts draws. If it
    counted children, k would depend on their values. Deterministic siblings are an error, since
    distinct picks are not independent draws; on chains the rule equals `Rejection`.
    `RecursiveRejection` over siblings drawn without replacement accepts more tokens; use this rule
    for drafters that can only supply independent samples.
    """

    with_probs: bool = False

    needs = Needs(probs=True)
    draws = frozenset({Draw.IID})
    exactness = Exactness.DISTRIBUTION
    tracks_probs = True

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Descend `draft` as long as one of the continuations passes."""
        walk = Walk(draft, view, self.with_probs)
        while not walk.ended:
            target, drawn = view.probs(walk.node), trials(draft, walk.node)
            if not drawn:
                return walk.emit(view.draw(target, walk.node, Purpose.NEXT))
            probs = drawn_probs(draft, drawn[0], target.numel())
            rho = allowance(target, probs, len(drawn))
            passed = _first_that_passes(draft, drawn, walk.node, view, rho * probs)
            if passed is None:
                left = leftover(target, probs, len(drawn), rho)
                return walk.emit(view.draw(left, walk.node, Purpose.RESIDUAL))
            walk.descend(passed)
        return walk.end()


def _first_that_passes(
    draft: Draft, drawn: list[int], node: int, view: View, asked: Float[Tensor, " wide"]
) -> int | None:
    target = view.probs(node)
    for place, child in enumerate(drawn):
        token = int(draft.tokens[child])
        allowed = float(target[token]) if token < target.numel() else 0.0
        if view.uniform(node, place) * float(asked[token]) < allowed:  # with NaN, reject
            return child
    return None


def kept_mass(
    target: Float[Tensor, " vocab"], drafted: Float[Tensor, " wide"], rho: float
) -> Float[Tensor, " vocab"]:
    """Return min(r, t / rho): the part of the distribution of one accepted draw that each token
    receives.
    """
    return torch.minimum(drafted[: target.numel()], target / rho)


def chance(beta: float, k: int) -> float:
    """Return 1 - (1 - beta)^k: the chance that one of k independent draws passes."""
    if k == 1:
        return beta
    return 1.0 if beta >= 1.0 else -math.expm1(k * math.log1p(-beta))


def allowance(target: Float[Tensor, " vocab"], drafted: Float[Tensor, " wide"], k: int) -> float:
    """Return the smallest rho in 1 .. k with 1 - (1 - beta)^k <= rho beta, by bisection from above.

    beta = sum_x min(r(x), t(x) / rho) is the chance that one draw passes. The left side decreases
    and the right side increases with rho, and k itself always satisfies the condition.
    """

    if k <= 1:
        return 1.0
    both = torch.nonzero((target > 0) & (drafted[: target.numel()] > 0)).flatten()
    t, r = target[both].numpy(), drafted[both].numpy()

    def pays(rho: float) -> bool:
        beta = float(np.minimum(r, t / rho).sum())
        return chance(beta, k) <= rho * beta + _ROUNDING

    low, high = 1.0, float(k)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def leftover(
    target: Float[Tensor, " vocab"], drafted: Float[Tensor, " wide"], k: int, rho: float
) -> Float[Tensor, " vocab"]:
    """Return the distribution of the next token if no draw passes, not normalised: t - min(r, t /
    rho) P / beta, where P is the chance that one passes. It is t itself if the two distributions
    have no token in common.
    """
    kept = kept_mass(target, drafted, rho)
    beta = float(kept.sum())
    if not beta > 0:
        return target
    left = (target - kept * (chance(beta, k) / beta)).clamp(min=0.0)
    return left if float(left.sum()) > 0 else target


METHOD = Method(
    name="kseq",
    cls=KSeq,
    summary="another sample of the target's distribution, from independent continuations",
    paper=Paper("SpecTr", "2310.15141"),
    promise=Exactness.DISTRIBUTION,
    needs="independent drafts: drafter tree with --growth iid",
)
