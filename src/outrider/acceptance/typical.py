"""Typical acceptance: a drafted token may stand where the verifier finds it likely enough."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from outrider.acceptance.changes import MAX_CHANGED
from outrider.acceptance.longest import longest_path
from outrider.core.checks import Range, check_ranges
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols import Needs
from outrider.protocols.method import Method, Paper
from outrider.protocols.view import View

_RANGES: Mapping[str, Range] = {
    "epsilon": Range(0.0, 1.0, above=True, hint="Give a probability above 0, such as 0.09"),
    "delta": Range(0.0, above=True, hint="Give a number above 0, such as 0.3"),
    "max_changed": MAX_CHANGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Typical:
    """Accept x where t(x) > min(epsilon, delta exp(-H(t))), t the verifier's warped distribution
    and H its entropy in nats; of several paths the longest, then the likeliest (Medusa, Cai et al.
    2024, arXiv 2401.10774). The verifier's choice is accepted in any case, which shortens nothing.

    Lossy: what passes is no sample of the verifier's distribution. At temperature 0 its
        distribution is a point mass
    and the rule is `Match`; so it is with an epsilon of 1.

    Attributes:
        epsilon: a token at least this likely always passes.
        delta: how far below the typical likelihood exp(-H) a token may lie.
        max_changed: share of the emitted tokens, 0 to 1, that may differ from the verifier's
            choice, rounded down; None sets no limit.

    Raises:
        OptionError: a number outside its range.
    """

    epsilon: float = 0.09
    delta: float = 0.3
    max_changed: float | None = None

    needs = Needs()
    draws = frozenset(Draw)
    exactness = Exactness.LOSSY
    tracks_probs = False

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """The longest path of `draft` that is typical throughout."""
        thresholds: dict[int, float] = {}

        def judge(seen: View, node: int, token: int) -> tuple[bool, float]:
            probs = seen.probs(node)
            if node not in thresholds:
                entropy = -float(torch.special.xlogy(probs, probs).sum())
                thresholds[node] = min(self.epsilon, self.delta * math.exp(-entropy))
            allowed = float(probs[token]) if token < probs.numel() else 0.0
            return allowed > thresholds[node], math.log(allowed) if allowed > 0 else -math.inf

        return longest_path(draft, view, judge, self.max_changed)


METHOD = Method(
    name="typical",
    cls=Typical,
    summary="a drafted token is kept where the target finds it likely enough",
    paper=Paper("Medusa", "2401.10774"),
    promise=Exactness.LOSSY,
)
