"""Fuzzy: accepts a drafted token if the proposer's and the verifier's distributions are close."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.acceptance.changes import MAX_CHANGED, has_room
from outrider.acceptance.divergence import Divergence, divergence
from outrider.acceptance.verdicts import Walk
from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols import Needs
from outrider.protocols.method import Method, Paper
from outrider.protocols.view import View

_RANGES: Mapping[str, Range] = {
    "threshold": Range(hint="Give a number; a negative one is `Match`"),
    "max_changed": MAX_CHANGED,
}


@dataclass(frozen=True, slots=True)
class Fuzzy:
    """Accept the child that equals the verifier's choice; otherwise, if the two distributions are
    close, accept the first child.

    Close means: the divergence between the reference of the node's first child (raw logits of the
    last model that accepted or drew it) and the verifier's raw logits is at most `threshold`, and
    the change budget allows one more change. Otherwise the verifier's choice is emitted. The test
    depends on distributions, never on the drafted token (except `logp_abs`). After Holsman, Huang
    and Dhingra 2025 (T is `threshold`) and PyramidSD (tau is `threshold`).

    With `with_probs`, the first child is accepted in a close row *regardless* of the choice. The
    token's distribution is then the drafter's in close rows and the verifier's in all others, which
    makes an outer `Rejection` exact. Other siblings are ignored in close rows: accepting one
    because it equals the choice would mix the two distributions. On chains, both variants emit the
    same tokens. `with_probs` together with a change budget is an error: the remaining budget
    depends on changes among tokens that the outer rule discarded, and those tokens used the same
    noise as the tokens drawn in their place (toy: total variation 0.074 from the target, noise
    0.007).

    Attributes:
        divergence: a name of `DIVERGENCES`, or the divergence itself.
        threshold: largest divergence that counts as close. Negative: exactly `Match`.
        max_changed: share of the emitted tokens, 0 to 1, that may differ from the verifier's
            choice; at no token do the changes exceed this share of the tokens so far, rounded down.
            None sets no limit. Changes are counted by `Counters.changed`.
        with_probs: report the distribution of each token, for an outer `Rejection`.

    Raises:
        OptionError: an unknown divergence, a threshold that is not a number, `max_changed` outside
            0 to 1, or `with_probs` together with a divergence that depends on the token or with a
            change budget.
    """

    divergence: Divergence | str
    threshold: float
    _: KW_ONLY
    max_changed: float | None = None
    with_probs: bool = False

    exactness = Exactness.LOSSY

    def __post_init__(self) -> None:
        if isinstance(self.divergence, str):
            object.__setattr__(self, "divergence", divergence(self.divergence))
        check_ranges(self, _RANGES)
        if self.with_probs and not self.tracks_probs:
            reads = "the drafted token" if self.measure.reads_token else "past changes"
            raise OptionError(
                f"Fuzzy with {self.measure.name} and max_changed {self.max_changed} depends on "
                f"{reads}, so the distribution of the accepted tokens is unknown",
                hint="With an outer Rejection, use js or tv, without max_changed",
            )

    @property
    def measure(self) -> Divergence:
        """The divergence object, also if the option is a name."""
        assert isinstance(self.divergence, Divergence)
        return self.divergence

    @property
    def needs(self) -> Needs:
        """A reference for each node; also distributions if the rule reports them."""
        return Needs(probs=self.with_probs, reference=True)

    @property
    def draws(self) -> frozenset[Draw]:
        """All ways of drawing; with distributions, only those whose first child has a known
        distribution."""
        known = {Draw.DETERMINISTIC, Draw.IID}
        return frozenset(known if self.with_probs else Draw)

    @property
    def tracks_probs(self) -> bool:
        """False if the decision depends on the token or on a budget: the distribution of the
        accepted tokens is then unknown."""
        return not self.measure.reads_token and self.max_changed is None

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Descend `draft` as long as a child is the choice or its distribution is close enough."""
        walk = Walk(draft, view, self.with_probs)
        while not walk.ended:
            choice, first = view.choose(walk.node), walk.first_child()
            if first is None:
                return walk.emit(choice)
            matching = walk.child_with(choice)
            if matching is not None and not self.with_probs:
                walk.descend(matching)
            elif self._has_budget(walk) and self._is_close(draft, first, walk):
                probs = _probs_of(draft, first, view) if self.with_probs else None
                walk.descend(first, changed=int(draft.tokens[first]) != choice, probs=probs)
            elif matching is not None:
                walk.descend(matching)
            else:
                return walk.emit(choice)
        return walk.end()

    def _has_budget(self, walk: Walk) -> bool:
        """Whether the change budget `max_changed` allows one more change."""
        return has_room(self.max_changed, walk.view.ledger, walk.accepted, walk.changes)

    def _is_close(self, draft: Draft, first: int, walk: Walk) -> bool:
        """Whether the divergence is within the threshold; NaN never is."""
        reference = None if draft.reference is None else draft.reference[first]
        if reference is None or self.threshold < 0:
            return False
        logits = walk.view.logits(walk.node)
        token = int(draft.tokens[first])
        return self.measure(reference.to(logits.device), logits, token) <= self.threshold


def _probs_of(draft: Draft, node: int, view: View) -> Float[Tensor, " wide"]:
    """Return the distribution `node` was drawn from; a deterministic choice is a point mass."""
    probs = None if draft.probs is None else draft.probs[node]
    if probs is not None:
        return probs
    token = int(draft.tokens[node])
    point = torch.zeros(max(view.rows.logits.shape[-1], token + 1), dtype=torch.float64)
    point[token] = 1.0
    return point


METHOD = Method(
    name="fuzzy",
    cls=Fuzzy,
    summary="a drafted token is kept where target and draft model nearly agree",
    paper=Paper("PyramidSD", "2510.12966"),
    promise=Exactness.LOSSY,
    needs="drafts of a model",
    defaults={"divergence": "js", "threshold": 0.4},
)
