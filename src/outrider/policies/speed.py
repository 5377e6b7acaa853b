"""The speed of a text so far, and what a further drafted token must promise at that speed.

Drafting one more token adds its chance to the expected tokens of a round, and the time of its row.
The draft with the most tokens per second in the long run is the one with the largest sum of chances
less the present speed times that time (the renewal-reward theorem; Dinkelbach 1967).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, log

from outrider.core.counters import Counters, Pace
from outrider.core.types import Worth

_KEPT = 0.98
"""Weight of a round relative to the next one."""
_BELIEF, _CARRIED = 8.0, 16.0
"""Weight of undrafted rounds in the estimate, in rounds, and of earlier texts."""
_CAUTION = 1.2
"""A token must promise this many times the time of its row. Chances are estimates, and the largest
of several estimates is too large on average."""
_USUAL = 0.03
"""Differences that are not errors: a round with a draft also chooses more tokens."""
_RECALLED = 64
"""Number of rounds over which their slowness is averaged."""
_IDLE, _FORGOTTEN = 32, 0.98
"""Undrafted rounds in a row after which each further one leaves this part of the difference between
rounds with and without drafts. Without drafts nothing corrects it, and a few slow rounds must not
end drafting for good."""


@dataclass(slots=True)
class Slowness:
    """How much longer rounds of one kind take than expected, averaged over many rounds.

    Attributes:
        log: natural logarithm of the factor.
        count: rounds from which it was computed.
    """

    log: float = 0.0
    count: int = 0

    def note(self, rounds: int, pace: Pace, expected: Callable[[float], float]) -> None:
        """Add new rounds by the pace that they have led to, given the expected seconds by rows of a
        forward."""
        if rounds > 0 and pace.count and pace.seconds > 0.0:
            self.count += rounds
            now = log(pace.seconds / expected(pace.size))
            self.log += (now - self.log) * min(rounds / min(self.count, _RECALLED), 1.0)

    def approach(self, other: "Slowness", rounds: int) -> None:
        """Forget a part of the difference to `other`, in so many rounds without an observation."""
        self.log += (other.log - self.log) * (1.0 - _FORGOTTEN**rounds)


@dataclass(slots=True)
class Speed:
    """Tokens and costs of recent rounds of one request, in undrafted rounds.

    Attributes:
        tokens: emitted tokens, faded.
        spent: time of their rounds divided by that of an undrafted round, faded.
        rounds: number of rounds at the last call.
        emitted: number of tokens at the last call.
        undrafted: number of rounds without a draft at the last call.
        drafted: number of drafted tokens at the last call.
        idle: number of rounds without a draft since the newest one.
        plain: the slowness of rounds without a draft.
        checked: the slowness of rounds with a draft.
    """

    tokens: float = 0.0
    spent: float = 0.0
    rounds: int = 0
    emitted: int = 0
    undrafted: int = 0
    drafted: int = 0
    idle: int = 0
    plain: Slowness = field(default_factory=Slowness)
    checked: Slowness = field(default_factory=Slowness)

    @property
    def relative(self) -> float:
        """Tokens per second divided by those of undrafted decoding; at least 1."""
        return max((self.tokens + _BELIEF) / (self.spent + _BELIEF), 1.0)

    @property
    def slower(self) -> float:
        """Seconds of rounds with a draft over what they should take beside those without one.

        The costs by rows were measured when the model was loaded, in a few forwards. Errors of that
        measurement show here.
        """
        count = min(self.plain.count, self.checked.count)
        off = self.checked.log - self.plain.log
        off -= min(max(off, -_USUAL), _USUAL)
        return exp(off * count / (count + _BELIEF))

    def note(
        self, counters: Counters, verify: Sequence[float], expected: Callable[[float], float]
    ) -> None:
        """Add the rounds since the last call.

        The seconds of these rounds are those that are expected, since measured ones include
        interruptions; only the long mean of measured ones corrects them.

        Args:
            counters: of the request.
            verify: by draft length, seconds of a round without drafting.
            expected: maps the rows of a forward to its seconds.
        """
        rounds = counters.rounds - self.rounds
        if rounds < 1 or not verify:
            return
        undrafted = counters.undrafted_rounds - self.undrafted
        drafted = counters.drafted + counters.probed
        spent = float(undrafted)
        if drafts := rounds - undrafted:
            length = (drafted - self.drafted) / drafts
            spent += drafts * max(self.slower * _between(verify, length) / verify[0], 1.0)
        self.plain.note(undrafted, counters.plain, expected)
        self.checked.note(rounds - undrafted, counters.checked, expected)
        self.idle = self.idle + undrafted if undrafted == rounds else 0
        if self.idle > _IDLE:
            self.checked.approach(self.plain, min(undrafted, self.idle - _IDLE))
        kept = _KEPT**rounds
        self.tokens = self.tokens * kept + counters.tokens - self.emitted
        self.spent = self.spent * kept + spent
        self.rounds, self.emitted = counters.rounds, counters.tokens
        self.undrafted, self.drafted = counters.undrafted_rounds, drafted

    def worth(self, verify: Sequence[float], least: float) -> Worth:
        """Return the floors for tokens of a chain."""
        rate = _CAUTION * self.relative / verify[0]
        slower, plain = self.slower, verify[0]
        seconds = [plain, *(max(slower * checked, plain) for checked in verify[1:])]
        floors = tuple(rate * (b - a) for a, b in pairwise(seconds))
        return Worth(floors=floors, least=least, rate=rate)

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
        return Speed(
            tokens=self.tokens * share,
            spent=self.spent * share,
            plain=self.plain,
            checked=self.checked,
        )


def _between(values: Sequence[float], place: float) -> float:
    """Return the value at `place`, or between two of them; the last one beyond the end."""
    place = min(place, len(values) - 1)
    low = int(place)
    if place <= low:
        return values[low]
    return values[low] + (place - low) * (values[low + 1] - values[low])
