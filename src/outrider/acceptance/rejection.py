"""Rejection sampling: preserves the target's distribution, but not its sample."""

from dataclasses import dataclass

from outrider.acceptance.probabilities import drawn_probs, residual
from outrider.acceptance.verdicts import Walk
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols import Needs
from outrider.protocols.method import Method, Paper
from outrider.protocols.view import View
from outrider.sampling.noise import Purpose


@dataclass(frozen=True, slots=True)
class Rejection:
    """Accept x with probability min(1, t(x) / r(x)); otherwise draw from max(t - r, 0), normalised.

    t is the verifier's warped distribution and r the distribution from which the token was
    *actually* drawn (Leviathan et al. 2023; Chen et al. 2023). A token without a distribution was
    picked deterministically: r is a point mass. Every test uses separate noise, keyed by tier,
    because noise shared by two stages would bias the result.

    This rule is for chains. In a tree it tests only the first sibling; use `RecursiveRejection` for
    trees, which tests all siblings and equals this rule on chains.
    """

    with_probs: bool = False

    needs = Needs(probs=True)
    draws = frozenset({Draw.DETERMINISTIC, Draw.IID})
    exactness = Exactness.DISTRIBUTION
    tracks_probs = True

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Judge the first child at each depth; other siblings are ignored."""
        walk = Walk(draft, view, self.with_probs)
        while not walk.ended:
            target, child = view.probs(walk.node), walk.first_child()
            if child is None:
                return walk.emit(view.draw(target, walk.node, Purpose.NEXT))
            drafted = drawn_probs(draft, child, target.numel())
            token = int(draft.tokens[child])
            allowed = float(target[token]) if token < target.numel() else 0.0
            if not view.uniform(walk.node) * float(drafted[token]) < allowed:  # with NaN, reject
                left = residual(target, drafted)
                return walk.emit(view.draw(left, walk.node, Purpose.RESIDUAL))
            walk.descend(child)
        return walk.end()


METHOD = Method(
    name="rejection",
    cls=Rejection,
    summary="another sample of the target's distribution, one child at a time",
    paper=Paper("speculative sampling", "2211.17192"),
    promise=Exactness.DISTRIBUTION,
    needs="drafts of a model, as chains",
)
