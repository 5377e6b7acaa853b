"""Draft as long as the drafter's confidence in its tokens is high enough.

The policy gives every round the same budget, with a `Stop` that ends a draft early. The stop reads
the drafter's probabilities, never the target's, and the token that triggers it stays in the draft.
Therefore no rule is biased by it.
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
    """Stops after a token that was drafted while no token had this probability."""

    threshold: float

    head = None
    """None: the stop uses the drafter's probabilities and no trained head."""

    def __call__(self, chances: Sequence[float]) -> bool:
        """Whether the newest chance is below the threshold."""
        return chances[-1] < self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceStop:
    """Drafts until the probability of the drafter's best token is below `threshold`, as in SWIFT
    and the assisted generation of `transformers`.

    Attributes:
        threshold: from 0, which never stops, to 1, which stops after the first token.
        longest: largest number of tokens of a draft.

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
        """False: the budget is the same in every round."""
        return False

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """Return a chain of the largest length, which may end early."""
        stop = BelowThreshold(self.threshold)
        return Budget(depth=self.longest, nodes=self.longest, stop=stop)


METHOD = Method(
    name="confidence",
    cls=ConfidenceStop,
    summary="a draft ends where the probability of its best token is below a threshold",
    paper=Paper("SWIFT", "2410.06916"),
)
