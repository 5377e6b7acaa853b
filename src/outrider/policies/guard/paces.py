"""Seconds of undrafted rounds by the size of the batch, and what drafted rounds took beside them.

All times of the guard are counted in undrafted rounds of the same batch, so that rounds of batches
of other sizes can be added.
"""

from dataclasses import dataclass, field
from math import log
from statistics import median

LONGEST = 8.0
"""Undrafted rounds that one drafted round counts at most. Longer ones are stalls of the machine."""
STALLS_WITHIN, LONGEST_REPEATED = 128, 64.0
"""Rounds that are longer than `LONGEST` count up to the second number if there was another one
within so many rounds."""
FADES = 2000
"""Rounds after which a repeated stall is half as likely to be the drafter's."""
LOWEST, HIGHEST = -2.0, 0.3
"""Range of x. A large gain in one epoch must not outweigh losses in many others."""
_WEIGHT = 0.25
"""Weight of the newest undrafted round in the pace, from the fourth one on."""
_FOLLOWS, _STEP = 0.35, 1.3
"""How far a known pace follows the rounds of an epoch (of the logarithm), and the ratio from which
on it follows them whole."""
_BURDENED, _HEAVY = 128, 3.0
"""Number of undrafted rounds from which the burden is computed, and what one counts at most."""
_SHAPE = 0.05
"""Weight of the newest undrafted round in the relation between sizes of batches."""


@dataclass(slots=True)
class PlainPace:
    """What undrafted rounds take now.

    Attributes:
        level: seconds of a round of the first batch size that was seen.
        shapes: by batch size, its seconds in relation to the level.
        count: rounds that were seen.
        burden: mean of rounds over their level: above 1 if other work on the machine interrupts
            some of them. It interrupts drafted rounds as often, in relation to their time.
    """

    level: float = 0.0
    shapes: dict[int, float] = field(default_factory=dict[int, float])
    count: int = 0
    burden: float = 1.0
    _burdened: int = 64

    def seconds(self, batch: int) -> float:
        """Return the expected seconds; of the nearest batch size if this one was never seen; 0 if
        none was."""
        if not self.shapes:
            return 0.0
        nearest = min(self.shapes, key=lambda known: (abs(known - batch), known))
        return self.level * self.shapes[nearest]

    def note(self, batch: int, seconds: float) -> None:
        """Add an undrafted round."""
        seconds = max(seconds, 1e-9)
        self.count += 1
        if not self.shapes:
            self.level, self.shapes[batch] = seconds, 1.0
            return
        if batch not in self.shapes:
            self.shapes[batch] = seconds / self.level
            return
        ratio = min(max(seconds / self.seconds(batch), 0.5), 2.0)
        self.level *= ratio ** max(1.0 / self.count, _WEIGHT)
        if len(self.shapes) > 1:
            self.shapes[batch] *= ratio**_SHAPE

    def interrupted(self, ratio: float) -> None:
        """Add an undrafted round to the burden: its seconds over what was expected."""
        self._burdened = min(self._burdened + 1, _BURDENED)
        self.burden += (min(ratio, _HEAVY) - self.burden) / self._burdened
        self.burden = max(self.burden, 1.0)

    def renew(self) -> None:
        """Forget the times, but not how much the machine interrupts."""
        self.level, self.count = 0.0, 0
        self.shapes.clear()

    def shift(self, factor: float, rounds: int) -> None:
        """Multiply what is expected, after so many undrafted rounds that were not noted."""
        self.level *= factor
        self.count += rounds


@dataclass(slots=True)
class Stalls:
    """Long rounds: one alone is a stall of the machine, repeated ones are the drafter's.

    Attributes:
        newest: number of the newest long round.
        withheld: what it took and did not count.
        longest: undrafted rounds that the longest of the repeated ones took.
    """

    newest: int = -STALLS_WITHIN
    withheld: float = 0.0
    longest: float = 0.0

    def limited(self, spent: float, now: int) -> float:
        """Return what a round counts that took `spent` undrafted ones; `now` is its number. A
        repeated one counts what the one before it did not."""
        if spent <= LONGEST:
            return spent
        repeated = now - self.newest <= STALLS_WITHIN
        whole = min(spent, LONGEST_REPEATED)
        before, self.withheld = self.withheld, 0.0 if repeated else whole - LONGEST
        if repeated:
            self.longest = max(whole, self.risk(now))
        self.newest = now
        return whole + before if repeated else LONGEST

    def risk(self, now: int) -> float:
        """Return what a long round may take again; half of it after `FADES` rounds without one."""
        return self.longest * 0.5 ** ((now - self.newest) / FADES)


@dataclass(slots=True)
class Drafted:
    """Rounds that drafted, and undrafted ones beside them.

    Attributes:
        rounds: drafted rounds.
        seconds: their time.
        spent: the same, in expected undrafted rounds.
        written: their tokens, in those of undrafted rounds.
        beside: seconds of undrafted rounds, each divided by what was expected.
        charged: what they were taken to lose, in undrafted rounds.
        longest: time of the longest of them.
        burden: see `PlainPace`.
        known: whether what is expected was measured before, in more than one round.
        context: tokens per request at its beginning; None before its first round.
    """

    rounds: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    written: float = 0.0
    beside: list[float] = field(default_factory=list[float])
    charged: float = 0.0
    longest: float = 0.0
    burden: float = 1.0
    known: bool = False
    context: float | None = None

    def add(self, spent: float, written: float, seconds: float = 0.0) -> None:
        """Add a drafted round."""
        self.rounds += 1
        self.seconds += seconds
        self.spent += spent
        self.written += written
        self.longest = max(self.longest, spent)

    @property
    def plain(self) -> float:
        """What an undrafted round took, divided by what was expected; 1 if there is none.

        A few rounds are noisy, so that a known pace follows them in part only; except after a step,
        when the machine has become much slower or faster.
        """
        return self.level * self.burden

    @property
    def level(self) -> float:
        """The same for rounds that nothing interrupts."""
        ratio = median(self.beside) if self.beside else 1.0
        return ratio**_FOLLOWS if self.known and 1.0 / _STEP < ratio < _STEP else ratio

    @property
    def gain(self) -> float:
        """Logarithm of the seconds per token without drafts over those with drafts."""
        if not self.rounds:
            return 0.0
        return log(max(self.written, 1e-6) * self.plain / max(self.spent, 1e-6))

    @property
    def usual_gain(self) -> float:
        """The gain without the longest round, which may have been interrupted."""
        if self.rounds < 2:
            return 0.0
        written = self.written * (1.0 - 1.0 / self.rounds)
        return log(max(written, 1e-6) * self.level / max(self.spent - self.longest, 1e-6))

    @property
    def tokens_per_round(self) -> float:
        """Tokens of a drafted round, in those of an undrafted one."""
        return self.written / max(self.rounds, 1)

    @property
    def cost_per_round(self) -> float:
        """Time of a drafted round, in undrafted rounds."""
        return self.spent / self.plain / max(self.rounds, 1)


def clipped(gain: float) -> float:
    """Return x of one epoch, within its range."""
    return min(max(gain, LOWEST), HIGHEST)
