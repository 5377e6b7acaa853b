"""Draft until a rejection of at least one token has become likely.

The policy gives every round the same budget, with a `Stop` that ends a draft early. The stop reads
the drafter's probabilities or the draft model's hidden states, never the target's, and the token
that triggers it stays in the draft. Therefore no rule is biased by it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.types import Budget
from outrider.policies.stop_head import StopHead
from outrider.protocols.method import Method, Paper

Head = Callable[[Tensor], float]
"""Maps a hidden state `[hidden]` of the draft model to the chance that its token is kept."""

_CHANCE = Range(0.0, 1.0, hint="Give a chance of at least 0 and at most 1")


@dataclass(frozen=True, slots=True)
class LikelyRefused:
    """Stops when the chance that at least one token is rejected exceeds `eta`."""

    eta: float
    least: int
    head: Head | None = None

    def __call__(self, chances: Sequence[float]) -> bool:
        """Whether 1 - (product of the chances) is above `eta`, from the `least`-th token on."""
        if len(chances) < self.least:
            return False
        return self.eta == 0.0 or 1.0 - math.prod(chances) > self.eta


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecDecPlus:
    """SpecDec++ (Huang et al. 2024, arXiv 2405.19715): drafts until the chance that some token is
    already rejected exceeds `eta`; the paper shows that the optimal stop is such a threshold.

    Without a `head`, the drafter's probability of its best token is the estimate of the chance that
    a token is kept. A trained head reads the draft model's last hidden state after the token, which
    is available only once the next token is drawn; the decision is then delayed by one token.

    Attributes:
        eta: from 0 (always the smallest length) to 1 (always the largest); the paper uses 0.3 to
            0.7.
        least: number of tokens before the first stop.
        longest: largest number of tokens of a draft.
        head: the folder that `outrider train stop` has written, or a function that maps a hidden
            state `[hidden]` to the chance that the token it has read is kept. None: the drafter's
            own probabilities are used.

    Raises:
        OptionError: a number outside its range.
        CheckpointError: the files of the head are missing or damaged.
    """

    eta: float = 0.5
    least: int = 2
    longest: int = 20
    head: Head | str | Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.head, str | Path):
            object.__setattr__(self, "head", StopHead.read(self.head))
        _CHANCE.check("eta", self.eta)
        AT_LEAST_ONE.check("least", self.least)
        if not self.longest >= self.least:
            raise OptionError(f"longest is {self.longest}", hint=f"Give at least {self.least}")

    @property
    def adaptive(self) -> bool:
        """False: the budget is the same in every round."""
        return False

    @property
    def trained(self) -> Head | None:
        """The head, also if the option is a folder."""
        assert not isinstance(self.head, str | Path)  # it was read when the policy was built
        return self.head

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """Return a chain of the largest length, which may end early."""
        stop = LikelyRefused(self.eta, self.least, self.trained)
        return Budget(depth=self.longest, nodes=self.longest, stop=stop)


METHOD = Method(
    name="specdec-plus",
    cls=SpecDecPlus,
    summary="a draft ends where a rejection of one of its tokens has become likely",
    paper=Paper("SpecDec++", "2405.19715"),
)
