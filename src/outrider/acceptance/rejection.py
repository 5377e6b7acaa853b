"""Rejection sampling: keeps the target's distribution, not its sample."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.acceptance.verdicts import Walk
from outrider.noise import Purpose
from outrider.protocols import Needs
from outrider.types import Draft, Draw, Exactness, Verdict
from outrider.view import View


@dataclass(frozen=True, slots=True)
class Rejection:
    """Accept x with probability min(1, t(x) / r(x)); else draw from max(t - r, 0), normalised.

    t is the verifier's warped law and r the law the token was *really* drawn from (Leviathan et
    al. 2023; Chen et al. 2023). A token without a law was picked deterministically: r is a point
    mass. Every test has noise of its own, keyed by tier, because streams shared by two stages
    would bias the result.
    """

    with_laws: bool = False

    needs = Needs(law=True)
    draws = frozenset({Draw.DETERMINISTIC, Draw.IID})
    exactness = Exactness.DISTRIBUTION
    tracks_law = True

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Judge the first child at each depth; siblings are left to the tree rules."""
        walk = Walk(draft, view, self.with_laws)
        while not walk.ended:
            target, child = view.law(walk.node), walk.first_child()
            if child is None:
                return walk.emit(view.draw(target, walk.node, Purpose.NEXT))
            drafted = _law_of(draft, child, target.numel())
            token = int(draft.tokens[child])
            allowed = float(target[token]) if token < target.numel() else 0.0
            if not view.uniform(walk.node) * float(drafted[token]) < allowed:  # NaN: refuse
                residual = _residual(target, drafted)
                return walk.emit(view.draw(residual, walk.node, Purpose.RESIDUAL))
            walk.descend(child)
        return walk.end()


def _law_of(draft: Draft, node: int, vocab_size: int) -> Float[Tensor, " wide"]:
    """The law `node` was drawn from, at least as wide as the verifier's."""
    own = None if draft.law is None else draft.law[node]
    token = int(draft.tokens[node])
    law = torch.zeros(
        max(vocab_size, token + 1 if own is None else own.numel()), dtype=torch.float64
    )
    if own is None:
        law[token] = 1.0
    else:
        law[: own.numel()] = own
    return law


def _residual(
    target: Float[Tensor, " vocab"], drafted: Float[Tensor, " wide"]
) -> Float[Tensor, " vocab"]:
    """max(t - r, 0). When rounding leaves nothing, the two laws are equal and t itself serves."""
    left = (target - drafted[: target.numel()]).clamp(min=0.0)
    return left if float(left.sum()) > 0 else target
