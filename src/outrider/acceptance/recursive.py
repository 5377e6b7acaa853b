"""Recursive rejection: siblings are tested one after the other, each against what is left."""

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
    """Test the children of a node in draw order; the first that passes is descended to.

    r is the verifier's warped distribution, s the distribution the sibling x was drawn from. x is
    accepted with probability min(1, r(x) / s(x)); else r becomes max(r - s, 0), normalised, and the
    next sibling is tested against that. If none passes, the next token is drawn from the last r.
    What s is:

    - *without replacement*: the distribution of the first draw, without the siblings before x (RSD,
      Jeon et
      al. 2024, arXiv 2402.14160; also Sequoia, and the trees of EAGLE-1);
    - *independent*: the same for all siblings (SpecInfer, Miao et al. 2023). A child that several
      continuations drew is tested once for each of them (`Draft.samples`);
    - *deterministic*: a point mass, so x is accepted with probability r(x), else struck from r
      (EAGLE-2). Over all siblings that accepts what `Match` would, in distribution.

    On chains this is `Rejection`, draw for draw. Siblings must be tested in the order in which they
    were drawn: in another order the emitted distribution is not the verifier's.
    """

    with_probs: bool = False

    needs = Needs(probs=True)
    draws = frozenset(Draw)
    exactness = Exactness.DISTRIBUTION
    tracks_probs = True

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Walk down `draft` as long as one of the children passes."""
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
    """The child that passes, if any, and what is left of the verifier's distribution (not
    normalised)."""
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
        if view.uniform(node, place) * float(drawn[token]) < allowed:  # NaN: refuse
            return child, left
        left = residual(left, drawn)
        seen.append(token)
    return None, left


def _without(probs: Float[Tensor, " wide"], seen: list[int]) -> Float[Tensor, " wide"]:
    """The distribution of the next draw when the tokens `seen` are gone; NaN where nothing is
    left."""
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
