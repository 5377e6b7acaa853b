"""Top-beta tolerance: accepts a drafted token that is close to the verifier's best token."""

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
    "beta": Range(1, hint="Give the number of tokens, at least 1"),
    "tau": Range(0.0, hint="Give a gap in nats of at least 0"),
    "max_changed": MAX_CHANGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopBeta:
    """Accept x if it is among the verifier's `beta` best tokens and at most `tau` nats behind the
    best (Generalized Aggressive Decoding, Xia et al. 2022, arXiv 2203.16487). Of several paths the
    longest wins, then the one with the smallest gaps.

    Tokens are ranked by the scores from which the verifier chooses: its log-probabilities, plus the
    noise of the choice if the temperature is above 0. The best token is therefore the verifier's
    choice at any temperature. With `beta` 1 or `tau` 0 no other token can pass, and the rule equals
    `Match`; otherwise it is lossy.

    Attributes:
        beta: how many of the best tokens may pass.
        tau: largest gap to the best token that may pass, in nats of the warped scores.
        max_changed: share of the emitted tokens, 0 to 1, that may differ from the verifier's
            choice, rounded down; None sets no limit.

    Raises:
        OptionError: a number outside its range.
    """

    beta: int = 1
    tau: float = 0.0
    max_changed: float | None = None

    needs = Needs()
    draws = frozenset(Draw)

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    @property
    def strict(self) -> bool:
        """Whether only the verifier's choice can pass."""
        return self.beta == 1 or self.tau == 0

    @property
    def exactness(self) -> Exactness:
        """Lossy, unless only the verifier's choice can pass."""
        return Exactness.IDENTICAL if self.strict else Exactness.LOSSY

    @property
    def tracks_probs(self) -> bool:
        """False: the decision depends on the token, so the distribution of the accepted tokens is
        unknown."""
        return False

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Accept the longest path of `draft` within the tolerance."""
        return longest_path(draft, view, self._judge, self.max_changed)

    def _judge(self, view: View, node: int, token: int) -> tuple[bool, float]:
        """Whether `token` is within the tolerance, and the negative gap to the best token."""
        if self.strict:
            return False, 0.0
        contest = view.contest(node)
        own = contest.scores[contest.ids == token]
        if not own.numel():
            return False, -math.inf
        better = int((contest.scores > own).sum())
        gap = float(torch.max(contest.scores) - own)
        return better < self.beta and gap <= self.tau and math.isfinite(gap), -gap


METHOD = Method(
    name="top-beta",
    cls=TopBeta,
    summary="a drafted token is kept where it is among the best and close to the best",
    paper=Paper("Generalized Aggressive Decoding", "2203.16487"),
    promise=Exactness.LOSSY,
    defaults={"beta": 3, "tau": 1.0},
)
