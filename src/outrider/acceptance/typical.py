"""Typical acceptance: accepts a drafted token that is likely enough under the verifier."""

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
    """Accept x if t(x) > min(epsilon, delta exp(-H(t))), where t is the verifier's warped
    distribution and H its entropy in nats. Of several paths the longest wins, then the most likely
    one (Medusa, Cai et al. 2024, arXiv 2401.10774). The verifier's choice is always accepted, which
    makes no path shorter.

    The rule is lossy: the accepted tokens are not a sample of the verifier's distribution. At
    temperature 0, the distribution is a point mass and the rule equals `Match`; the same holds for
    an epsilon of 1.

    Attributes:
        epsilon: a token with at least this probability always passes.
        delta: scales the threshold relative to the typical likelihood exp(-H).
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
        """Accept the longest path of `draft` on which every token is typical."""
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
