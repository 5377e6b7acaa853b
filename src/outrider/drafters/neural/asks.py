"""Whether it pays to run a head: what its drafts gained, less what they cost, in tokens.

A head runs before it is known whether any of its tokens pays, and where it has none, its time is
lost: nothing counts such rounds but this. In sampled texts, and where penalties change the choice,
a head may be right so seldom that copies alone are faster.
"""

from dataclasses import dataclass, field

from outrider.core.counters import Pace

FIRST, MEMORY = 16, 64
"""Asks before a head may be left out, and over how many their gains are averaged."""
TRIAL, WAIT, LONGEST = 8, 64, 1024
"""Asks of a trial, and asks that are declined before the first one, and at most."""
_STALL = 2.0
"""Times its usual seconds that one ask counts at most."""


@dataclass(slots=True)
class Ask:
    """One ask for a draft that is not judged yet.

    Attributes:
        cost: what it took, in tokens that are written in this time.
        proposed: number of its tokens.
    """

    cost: float
    proposed: int


@dataclass(slots=True)
class Asks:
    """The gains of a head in texts of one kind.

    Attributes:
        mean: mean gain of an ask, in tokens.
        count: asks so far, since the last trial that gained.
        off: whether the head is left out, but for trials.
    """

    mean: float = 0.0
    count: int = 0
    off: bool = False
    _pace: Pace = field(default_factory=Pace)
    _wait: int = WAIT
    _declined: int = 0

    def pays(self) -> bool:
        """Whether the head should run for one more text; a refusal counts towards the next
        trial."""
        if not self.off or self._declined >= self._wait:
            return True
        self._declined += 1
        return False

    def seconds(self, seconds: float) -> float:
        """Add the time of an ask; return what counts of it, without stalls of the machine."""
        usual = self._pace.seconds if self._pace.count else seconds
        self._pace.note(seconds, 1.0)
        return min(seconds, _STALL * usual)

    def note(self, gain: float) -> None:
        """Add an ask: the tokens that were kept, less its cost."""
        self.count += 1
        self.mean += (gain - self.mean) / min(self.count, MEMORY)
        if self.off:
            self._end_trial()
        elif self.count >= FIRST and self.mean < 0.0:
            self._leave_out(WAIT)

    def _end_trial(self) -> None:
        if self.count < TRIAL:
            return
        if self.mean > 0.0:
            self.off = False
        else:
            self._leave_out(min(2 * self._wait, LONGEST))

    def _leave_out(self, wait: int) -> None:
        self.off, self._wait, self._declined = True, wait, 0
        self.mean, self.count = 0.0, 0
