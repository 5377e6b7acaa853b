"""The speed of a text so far, and what a further drafted token must promise at that speed.

Drafting one more token adds its chance to the expected tokens of a round, and the time of its row.
The draft with the most tokens per second in the long run is the one with the largest sum of chances
less the present speed times that time (the renewal-reward theorem; Dinkelbach 1967).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from outrider.core.counters import Counters
from outrider.core.types import Worth

_KEPT = 0.98
"""Weight of a round relative to the next one."""
_BELIEF, _CARRIED = 8.0, 16.0
"""Weight of undrafted rounds in the estimate, in rounds, and of earlier texts."""
_CAUTION = 1.5
"""A token must promise this many times the time of its row. Chances are estimates, and the largest
of several estimates is too large on average."""


@dataclass(slots=True)
class Speed:
    """Tokens and costs of recent rounds of one request, in undrafted rounds.

    Attributes:
        tokens: emitted tokens, faded.
        spent: time of their rounds divided by that of an undrafted round, faded.
        rounds: number of rounds at the last call.
        emitted: number of tokens at the last call.
        drafted: number of drafted tokens at the last call.
    """

    tokens: float = 0.0
    spent: float = 0.0
    rounds: int = 0
    emitted: int = 0
    drafted: int = 0

    @property
    def relative(self) -> float:
        """Tokens per second divided by those of undrafted decoding; at least 1."""
        return max((self.tokens + _BELIEF) / (self.spent + _BELIEF), 1.0)

    def note(self, counters: Counters, verify: Sequence[float]) -> None:
        """Add the rounds since the last call; `verify` holds seconds of a round by draft length.

        Expected seconds are used, since measured ones include interruptions.
        """
        rounds = counters.rounds - self.rounds
        drafted = counters.drafted + counters.probed
        if rounds < 1 or not verify:
            return
        length = min((drafted - self.drafted) / rounds, len(verify) - 1)
        low = int(length)
        seconds = verify[low]
        if length > low:
            seconds += (length - low) * (verify[low + 1] - seconds)
        kept = _KEPT**rounds
        self.tokens = self.tokens * kept + counters.tokens - self.emitted
        self.spent = self.spent * kept + rounds * seconds / verify[0]
        self.rounds, self.emitted, self.drafted = counters.rounds, counters.tokens, drafted

    def worth(self, verify: Sequence[float], least: float) -> Worth:
        """Return the floors for tokens of a chain."""
        rate = _CAUTION * self.relative / verify[0]
        return Worth(floors=tuple(rate * (b - a) for a, b in pairwise(verify)), least=least)

    def surplus(self, seconds: float, speed: float, verify: Sequence[float]) -> float:
        """Return the tokens that a draft gains, less those that its time is worth.

        Args:
            seconds: of the round.
            speed: expected tokens per second of the round.
            verify: by draft length, seconds of a round without drafting.
        """
        rate = self.relative / verify[0]
        return max((speed - rate) * seconds - 1.0 + rate * verify[0], 0.0)

    def carried(self) -> "Speed":
        """Return the state with which the next text begins."""
        share = min(1.0, _CARRIED / self.spent) if self.spent else 0.0
        return Speed(tokens=self.tokens * share, spent=self.spent * share)
