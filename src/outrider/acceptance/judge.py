"""Judge Decoding: accepts a drafted token that a trained probe takes for correct."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from outrider.acceptance.changes import MAX_CHANGED
from outrider.acceptance.longest import longest_path
from outrider.acceptance.probe import Probe
from outrider.core.checks import Range, check_ranges
from outrider.core.errors import StrategyError
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols import LanguageModel, Needs
from outrider.protocols.method import Method, Paper
from outrider.protocols.view import View

_RANGES: Mapping[str, Range] = {
    "threshold": Range(
        0.0, 1.0, optional=True, hint="Give a chance of at least 0 and at most 1, such as 0.5"
    ),
    "max_changed": MAX_CHANGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Accept x if it is the verifier's choice, or if the probe takes it for correct:
    sigmoid(w e + b) > `threshold`, where e is the verifier's last hidden state after it has read x
    (Bachmann et al. 2025, arXiv 2501.19309). Of several paths the longest wins, then the one that
    the probe finds most likely. The verifier's choice follows.

    The rule is lossy at any threshold below 1: a token that the verifier would not choose is kept
    if the probe expects the final answer to stay the same. The probe never decides about end
    tokens, special tokens, and tokens that bans or the grammar of the request exclude: these pass
    only if they are the verifier's choice.

    Attributes:
        probe: the folder that `outrider train judge` has written, or the probe itself.
        threshold: a token passes if its chance of being correct is above it. 1: only the verifier's
            choice passes, as with `Match`; 0: every token passes. None: that of the probe.
        max_changed: share of the emitted tokens, 0 to 1, that may differ from the verifier's
            choice, rounded down; None sets no limit.

    Raises:
        OptionError: a number outside its range.
        CheckpointError: the files of the probe are missing or damaged.
    """

    probe: Probe | str | Path
    threshold: float | None = None
    max_changed: float | None = None

    needs = Needs()
    draws = frozenset(Draw)
    exactness = Exactness.LOSSY
    tracks_probs = False

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not isinstance(self.probe, Probe):
            object.__setattr__(self, "probe", Probe.read(self.probe))

    @property
    def trained(self) -> Probe:
        """The probe, also if the option is a folder."""
        assert isinstance(self.probe, Probe)
        return self.probe

    @property
    def least_odds(self) -> float:
        """The log-odds above which a token passes."""
        threshold = self.trained.threshold if self.threshold is None else self.threshold
        if threshold in (0.0, 1.0):
            return math.inf if threshold else -math.inf
        return math.log(threshold) - math.log1p(-threshold)

    def check_target(self, target: LanguageModel) -> None:
        """Raise an error unless this model returns the states that the probe reads; see
        `Probe.check_target`."""
        self.trained.check_target(target)

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Accept the longest path of `draft` on which every token is the choice or passes."""
        odds, least, special = self._odds(draft, view), self.least_odds, self.trained.special_ids

        def judge(seen: View, node: int, token: int) -> tuple[bool, float]:
            own = odds.get((node, token), math.nan)
            passes = (
                own > least
                and token not in special
                and not seen.ends(token)
                and seen.allows(node, token)
            )
            return passes, _log_chance(own)

        return longest_path(draft, view, judge, self.max_changed)

    def _odds(self, draft: Draft, view: View) -> dict[tuple[int, int], float]:
        """Return the log-odds of each drafted token, by its parent and its id."""
        if not len(draft):
            return {}
        if view.rows.hidden is None:
            raise StrategyError(
                f"Judge reads the hidden states of {view.model}, which does not return them",
                hint="Use another rule, or a model that returns its states",
            )
        odds = self.trained.odds(view.rows.hidden[1:])
        places = zip(draft.parents.tolist(), draft.tokens.tolist(), strict=True)
        return dict(zip(places, odds, strict=True))


def _log_chance(odds: float) -> float:
    """Return log(sigmoid(odds)); the least value for NaN."""
    if math.isnan(odds):
        return -math.inf
    return -math.log1p(math.exp(-odds)) if odds > 0 else odds - math.log1p(math.exp(odds))


METHOD = Method(
    name="judge",
    cls=Judge,
    summary="a drafted token is kept where a trained probe takes it for correct",
    paper=Paper("Judge Decoding", "2501.19309"),
    promise=Exactness.LOSSY,
    needs="a probe of the target, from `outrider train judge`",
    memory="one number for each hidden dimension",
)
