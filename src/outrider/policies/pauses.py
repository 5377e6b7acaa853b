"""When opportunistic sources are asked: they may have nothing to propose, and asking takes time.

    asked --- allowed misses in a row ---> paused --- the pause is over ---> asked
      ^                                                                        |
      +------------------- one of their tokens is accepted <-------------------+

Each pause is twice as long as the one before, and allows half as many misses after it. An accepted
token sets both back. Where asking takes a noticeable share of a round, a text begins paused.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from outrider.core.counters import Tally

_MISSES_COST = 0.4
"""What misses in a row may cost before a pause, in rounds."""
_PAUSE, _LONGEST_PAUSE = 8, 64
"""Rounds of the first pause, and of the longest."""
_NEGLIGIBLE = 0.01
"""Share of a round that asking may take without any pause."""
NOTICEABLE, FIRST_ROUNDS = 0.05, 12
"""Share of a round from which asking is noticeable; the first rounds of a text, in which sources
are not asked then: most short texts have nothing to copy."""


@dataclass(slots=True)
class Pauses:
    """The state of one request.

    Attributes:
        misses: rounds in a row in which sources were asked and had nothing.
        allowed: misses that start a pause; infinite until the first round is looked at.
        length: rounds of the next pause.
        until: the round in which the current pause ends.
        found: drafts of the sources when last looked at.
        accepted: accepted tokens of the sources when last looked at.
    """

    misses: int = 0
    allowed: float = inf
    length: int = _PAUSE
    until: int = 0
    found: int = 0
    accepted: int = 0

    @property
    def due(self) -> bool:
        """Whether enough misses have come in a row for a pause."""
        return self.misses >= self.allowed

    def paused(self, share: float, now: int, past: int, tallies: Iterable[Tally]) -> bool:
        """Whether sources are left out in round `now`.

        Args:
            share: of a round that asking them takes.
            now: the number of this round, over all texts.
            past: rounds of earlier texts.
            tallies: what became of the drafts of these sources.
        """
        if share <= _NEGLIGIBLE:
            return False
        allowed = max(_MISSES_COST // share, 2)
        if self.allowed == inf:
            self.allowed = allowed
            self.until = past + FIRST_ROUNDS if share > NOTICEABLE else 0
        self._note(list(tallies), allowed)
        if self.due:
            self.until, self.misses = now + self.length, 0
            self.length, self.allowed = min(2 * self.length, _LONGEST_PAUSE), max(allowed // 2, 1)
        return now < self.until

    def _note(self, tallies: list[Tally], allowed: float) -> None:
        """Take note of drafts that were found, and of tokens that were accepted."""
        found, accepted = sum(t.drafts for t in tallies), sum(t.accepted for t in tallies)
        if found != self.found:
            self.found, self.misses = found, 0
        if accepted != self.accepted:
            self.accepted, self.length, self.allowed, self.until = accepted, _PAUSE, allowed, 0
