"""Recursive rejection: tests siblings one after another, each against the residual distribution."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.acceptance.probabilities import drawn_probs, residual, trials
from outrider.acceptance.verdicts import Walk
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols import Needs
from outrider.protocols.method import Method, Paper
from outrider.protocols.view import View
from outrider.sampling.noise import Purpose


@dataclass(frozen=True, slots=True)
class RecursiveRejection:
    """Test the children of a node in draw order, and descend to the first one that passes.

    r is the verifier's warped distribution, s the distribution from which the sibling x was drawn.
    x is accepted with probability min(1, r(x) / s(x)); otherwise r becomes max(r - s, 0),
    normalised, and the next sibling is tested against it. If none passes, the next token is drawn
    from the last r. s depends on how siblings are drawn:

    - *without replacement*: the distribution of the first draw, without the siblings before x (RSD,
      Jeon et al. 2024, arXiv 2402.14160; also Sequoia, and the trees of EAGLE-1);
    - *independent*: the same for all siblings (SpecInfer, Miao et al. 2023). A child that several
      continuations drew is tested once for each of them (`Draft.samples`);
    - *deterministic*: a point mass, so x is accepted with probability r(x); otherwise r(x) is set
      to zero (EAGLE-2). Over all siblings, the accepted tokens have the same distribution as under
      `Match`.

    On chains the rule equals `Rejection`, draw for draw. Siblings must be tested in the order in
    which they were drawn; in any other order the emitted distribution is not the verifier's.
    """

    with_probs: bool = False

    needs = Needs(probs=True)
    draws = frozenset(Draw)
    exactness = Exactness.DISTRIBUTION
    tracks_probs = True

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Descend `draft` as long as one of the children passes."""
        walk = Walk(draft, view, self.with_probs)
        while not walk.ended:
            children = trials(draft, walk.node)
            if not children:
                return walk.emit(view.draw(view.probs(walk.node), walk.node, Purpose.NEXT))
            passed, left = _test(draft, children, walk.node, view)
            if passed is None:
                return walk.emit(view.draw(left, walk.node, Purpose.RESIDUAL))
            walk.descend(passed)
        return walk.end()


def _test(
    draft: Draft, children: list[int], node: int, view: View
) -> tuple[int | None, Float[Tensor, " vocab"]]:
    """Return the child that passes, if any, and the residual of the verifier's distribution (not
    normalised).
    """
    left = view.probs(node)
    seen: list[int] = []
    for place, child in enumerate(children):
        if place:
            left = left / left.sum()
        token = int(draft.tokens[child])
        drawn = drawn_probs(draft, child, left.numel())
        if draft.draw is Draw.WITHOUT_REPLACEMENT:
            drawn = _without(drawn, seen)
        allowed = float(left[token]) if token < left.numel() else 0.0
        if view.uniform(node, place) * float(drawn[token]) < allowed:  # with NaN, reject
            return child, left
        left = residual(left, drawn)
        seen.append(token)
    return None, left


def _without(probs: Float[Tensor, " wide"], seen: list[int]) -> Float[Tensor, " wide"]:
    """Return the distribution of the next draw after the tokens `seen` are removed; NaN if nothing
    remains.
    """
    if not seen:
        return probs
    rest = probs.clone()
    rest[[token for token in seen if token < rest.numel()]] = 0.0
    mass = rest.sum()
    return rest / mass if float(mass) > 0 else torch.full_like(rest, torch.nan)


METHOD = Method(
    name="recursive",
    cls=RecursiveRejection,
    summary="another sample of the target's distribution; siblings are tested in turn",
    paper=Paper("RSD", "2402.14160"),
    promise=Exactness.DISTRIBUTION,
    needs="drafts with probabilities",
)
