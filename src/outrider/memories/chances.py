"""How often predicted tokens were right, by kind of prediction.

Every token that is written shows, for all candidates of its place, which were right, drafted or
not. So the chances are measured at no cost, and on all texts, not only where drafts were tried.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from outrider.memories.followers import SHARES, VOTES, Prediction

_BELIEF = 4.0
"""Weight of the prior of a kind of candidate, in tested tokens."""
_FORGET = 512.0
"""Number of tested tokens at which the counts of a kind are halved."""
_AGREEMENT = (0.6, 0.9)
"""Chance of the best candidate relative to its rate, where others disagree and where none does,
until it is measured."""
STREAKS, _MISSED = (0, 2, 6, 16), (1.0, 0.8, 0.5, 0.25)
"""Lengths of streaks from which chances are counted separately, and the share of the chance to be
wrong that remains, until it is measured."""


class Best(NamedTuple):
    """The best candidate of a place.

    Attributes:
        token: its id.
        chance: the chance that it is right.
        place: index in the counts of best candidates.
    """

    token: int
    chance: float
    place: int


@dataclass(slots=True)
class Chances:
    """How often candidates of each kind were right.

    A kind is the memory (this text or earlier answers), the length of the context, and the classes
    of its votes and of their share. Rates of all candidates decide which one is the best of a
    place. Its own chance is counted separately: the largest of several estimates is too large on
    average, and more so where the candidates do not agree. It rises with the streak: a text that
    copies a passage follows it for long.

    Attributes:
        hits: by kind, how many were right, with half the weight after every 512.
        trials: by kind, how many were tested.
        best_hits: by kind, agreement and streak, how many of the best candidates were right.
        best_trials: by kind, agreement and streak, how many of them were tested.
    """

    hits: list[float]
    trials: list[float]
    best_hits: list[float]
    best_trials: list[float]

    @classmethod
    def of(cls, own: int, shared: int) -> "Chances":
        """Create the priors for contexts of up to `own` and `shared` tokens."""
        priors = [
            _prior(length, votes, part)
            for longest in (own, shared)
            for length in range(1, longest + 1)
            for votes in range(len(VOTES))
            for part in range(len(SHARES))
        ]
        best = [
            _BELIEF * (1.0 - (1.0 - part * prior) * missed)
            for prior in priors
            for part in _AGREEMENT
            for missed in _MISSED
        ]
        return cls(
            [_BELIEF * prior for prior in priors],
            [_BELIEF] * len(priors),
            best,
            [_BELIEF] * len(best),
        )

    def best(self, found: Sequence[Prediction], streak: int) -> Best | None:
        """Return the candidate with the largest rate, and its chance to be right after `streak`
        tokens that the longest known context predicted.
        """
        if not found:
            return None
        hits, trials = self.hits, self.trials
        token, kind = found[0]
        most, agree = hits[kind] / trials[kind], 1
        for other, other_kind in found[1:]:
            rate = hits[other_kind] / trials[other_kind]
            agree &= other == found[0][0]
            if rate > most:
                token, kind, most = other, other_kind, rate
        place = (2 * kind + agree) * len(STREAKS) + bisect_right(STREAKS, streak) - 1
        return Best(token, self.best_hits[place] / self.best_trials[place], place)

    def note(self, found: Sequence[Prediction], best: Best | None, token: int) -> None:
        """Count the candidates of a place at which `token` was written."""
        if best is not None:
            _add(self.best_hits, self.best_trials, best.place, best.token == token)
        for other, kind in found:
            _add(self.hits, self.trials, kind, other == token)


def _add(hits: list[float], trials: list[float], place: int, right: bool) -> None:
    if trials[place] >= _FORGET:
        hits[place] *= 0.5
        trials[place] *= 0.5
    hits[place] += right
    trials[place] += 1.0


def _prior(length: int, votes: int, share: int) -> float:
    """Return a first estimate, from answers of SmolLM2-135M-Instruct to training prompts."""
    return min((0.1, 0.2, 0.35, 0.4)[share] + 0.08 * (length - 1) + 0.05 * min(votes, 2), 0.9)
