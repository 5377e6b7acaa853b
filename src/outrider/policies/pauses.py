"""Decides when opportunistic sources are queried: a query takes time and may find no draft.

    active --- allowed misses in a row ---> paused --- the pause is over ---> active
      ^                                                                         |
      +------------------- one of their tokens is accepted <--------------------+

Each pause is twice as long as the previous one, and half as many misses are allowed after it. An
accepted token resets both. If a query takes a noticeable share of a round, a text starts paused.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from outrider.core.counters import Tally

_MISSES_COST = 0.4
"""Largest cost of consecutive misses before a pause, in rounds."""
_PAUSE, _LONGEST_PAUSE = 8, 64
"""Rounds of the first pause, and of the longest."""
_NEGLIGIBLE = 0.01
"""Largest share of a round that queries may take without pauses."""
NOTICEABLE, FIRST_ROUNDS = 0.05, 12
"""Share of a round from which a query is noticeable, and the number of first rounds of a text that
are then paused, because most short texts contain nothing to copy."""


@dataclass(slots=True)
class Pauses:
    """The state of one request.

    Attributes:
        misses: consecutive rounds in which sources were queried and proposed nothing.
        allowed: number of misses that start a pause; infinite before the first round.
        length: rounds of the next pause.
        until: the round in which the current pause ends.
        found: number of drafts of the sources at the last call.
        accepted: number of their accepted tokens at the last call.
    """

    misses: int = 0
    allowed: float = inf
    length: int = _PAUSE
    until: int = 0
    found: int = 0
    accepted: int = 0

    @property
    def due(self) -> bool:
        """Whether there were enough consecutive misses for a pause."""
        return self.misses >= self.allowed

    def paused(self, share: float, now: int, past: int, tallies: Iterable[Tally]) -> bool:
        """Whether sources are left out in round `now`.

        Args:
            share: share of a round that a query takes.
            now: the number of this round, over all texts.
            past: rounds of earlier texts.
            tallies: results of the drafts of these sources.
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
        """Reset the misses after a new draft, and the pauses after an accepted token."""
        found, accepted = sum(t.drafts for t in tallies), sum(t.accepted for t in tallies)
        if found != self.found:
            self.found, self.misses = found, 0
        if accepted != self.accepted:
            self.accepted, self.length, self.allowed, self.until = accepted, _PAUSE, allowed, 0
