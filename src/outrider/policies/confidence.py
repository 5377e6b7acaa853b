"""Draft as long as the drafter is sure of its tokens.

The policy gives every round the same budget, with a `Stop` that ends a draft early. It reads the
drafter's probabilities, and never the target's; what it has looked at stays in
the draft. So no rule is biased by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.counters import Counters
from outrider.core.types import Budget
from outrider.protocols.method import Method, Paper

_CHANCE = Range(0.0, 1.0, hint="Give a chance of at least 0 and at most 1")


@dataclass(frozen=True, slots=True)
class BelowThreshold:
    """Stops after a token that was drafted where no token had this probability."""

    threshold: float

    head = None
    """It reads probabilities."""

    def __call__(self, chances: Sequence[float]) -> bool:
        """Whether the newest chance is below the threshold."""
        return chances[-1] < self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceStop:
    """Draft until the drafter's best token is less likely than `threshold`, as in SWIFT and the
    assisted generation of `transformers`.

    Attributes:
        threshold: from 0, which never stops, to 1, which stops after the first token.
        longest: most tokens of a draft.

    Raises:
        OptionError: a number outside its range.
    """

    threshold: float = 0.4
    longest: int = 20

    def __post_init__(self) -> None:
        _CHANCE.check("threshold", self.threshold)
        AT_LEAST_ONE.check("longest", self.longest)

    @property
    def adaptive(self) -> bool:
        """Earlier drafts change nothing."""
        return False

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """A chain of the longest length that may end early."""
        stop = BelowThreshold(self.threshold)
        return Budget(depth=self.longest, nodes=self.longest, stop=stop)


METHOD = Method(
    name="confidence",
    cls=ConfidenceStop,
    summary="a draft ends where the drafter is less sure than a threshold",
    paper=Paper("SWIFT", "2410.06916"),
)
