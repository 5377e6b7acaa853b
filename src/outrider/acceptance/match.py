"""Match: accepts a drafted token if it equals the target's own choice."""

from dataclasses import dataclass

from outrider.acceptance.verdicts import Walk
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols import Needs
from outrider.protocols.method import Method
from outrider.protocols.view import View


@dataclass(frozen=True, slots=True)
class Match:
    """Descend while a child equals the verifier's choice; then emit the choice.

    The output equals the verifier's own output, token for token, at any temperature: its choices
    are a function of logits, text, seed and index (see `noise.py`), and no other token is emitted.
    The rule needs no draft probabilities, so it works with every drafter.
    """

    with_probs: bool = False
    """Report the distribution of each token, for an outer `Rejection`."""

    needs = Needs()
    draws = frozenset(Draw)
    exactness = Exactness.IDENTICAL
    tracks_probs = True

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Accept the longest path of `draft` that equals the verifier's choices, then emit its next
        choice."""
        walk = Walk(draft, view, self.with_probs)
        while not walk.ended:
            choice = view.choose(walk.node)
            child = walk.child_with(choice)
            if child is None:
                return walk.emit(choice)
            walk.descend(child)
        return walk.end()


METHOD = Method(
    name="match",
    cls=Match,
    summary="a drafted token is kept where it is the target's own choice",
)
