"""Fuzzy: a drafted token may stand where the proposer's distribution is close enough to the
verifier's."""

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
    """Descend to the verifier's choice; else, where the two distributions are close, to the first
    child.

    Close means: the divergence between the reference of the node's first child (raw logits of the
    last model that vouched for it) and the verifier's raw logits is at most `threshold`, and the
    budget of changes has room. Otherwise the verifier's choice is emitted. The test reads
    distributions, never the drafted token (`logp_abs` excepted). After Holsman, Huang and Dhingra
    2025 (T is `threshold`) and PyramidSD (tau is `threshold`).

    With `with_probs` a close row descends to the first child *whatever* the choice is. The token's
    distribution is then the drafter's wherever the row is close and the verifier's elsewhere, which
    is what makes a `Rejection` further out exact. Siblings are passed over at close rows: taking
    one because it equals the choice would mix the two distributions. On chains both readings emit
    the same. A budget is refused together with distributions: whether it has room depends on
    changes among tokens that the outer rule discarded, and those shared their noise with the tokens
    drawn in their place (toy: total variation 0.074 from the target, noise 0.007).

    Attributes:
        divergence: a name of `DIVERGENCES`, or the divergence itself.
        threshold: largest divergence that counts as close. Negative: exactly `Match`.
        max_changed: share of the emitted tokens, 0 to 1, that may differ from the verifier's
            choice; at no token do the changes exceed this share of the tokens so far, rounded
            down. None sets no limit. Changes are counted by `Counters.changed`.
        with_laws: report the distribution of each token, for a `Rejection` further out.

    Raises:
        OptionError: an unknown divergence, a threshold that is not a number, `max_changed` outside
            0 to 1, or distributions asked of a divergence that reads the token or of a rule with a
            budget.
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
                f"Fuzzy by {self.measure.name} with max_changed {self.max_changed} reads {reads}, "
                "so the distribution of what it keeps is not known",
                hint="Below Rejection use js or tv, without max_changed",
            )

    @property
    def measure(self) -> Divergence:
        """The divergence itself."""
        assert isinstance(self.divergence, Divergence)
        return self.divergence

    @property
    def needs(self) -> Needs:
        """A reference for each node; distributions as well when they are to be reported."""
        return Needs(probs=self.with_probs, reference=True)

    @property
    def draws(self) -> frozenset[Draw]:
        """Any; distributions are known for a first child drawn on its own."""
        known = {Draw.DETERMINISTIC, Draw.IID}
        return frozenset(known if self.with_probs else Draw)

    @property
    def tracks_probs(self) -> bool:
        """False where the decision reads the token or a budget: what it keeps has no simple
        distribution."""
        return not self.measure.reads_token and self.max_changed is None

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Walk down `draft` as long as a child is the choice or is close enough to it."""
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
        """Whether one more change keeps within `max_changed` of the tokens up to this one."""
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
    """The distribution `node` was drawn from; a deterministic choice is a point mass."""
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
