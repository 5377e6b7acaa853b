"""The prompts of a tuning, in two parts: those that arms are chosen by, and those that judge."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from outrider.bench.measure import Place
from outrider.core.errors import OptionError

FEW = 24
"""With fewer prompts a verdict is weak."""
_EVERY = 3
"""One of so many prompts judges."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Two parts of the prompts.

    Attributes:
        search: arms are chosen by these.
        verdict: the chosen arm is judged by these alone.
    """

    search: tuple[Place, ...]
    verdict: tuple[Place, ...]

    @property
    def weak(self) -> bool:
        """Whether there are too few prompts for a verdict that can be relied on."""
        return len(self.search) + len(self.verdict) < FEW

    @property
    def digest(self) -> str:
        """A short hash of all prompts."""
        every = sorted(_rank(place) for place in (*self.search, *self.verdict))
        return hashlib.sha256("".join(every).encode()).hexdigest()[:16]


def split(places: Sequence[Place]) -> Parts:
    """Split prompts by their hash: within each class, every third one judges.

    The parts depend on the prompts alone, so that a later run of the same file has the same ones.

    Raises:
        OptionError: there are fewer than two prompts.
    """
    if len(places) < 2:
        raise OptionError(
            f"{len(places)} prompt is too few: one part chooses, the other judges",
            hint="Give at least 24 prompts, better 96",
        )
    kinds: dict[str, list[Place]] = {}
    for place in sorted(places, key=_rank):
        kinds.setdefault(place.workload, []).append(place)
    search: list[Place] = []
    verdict: list[Place] = []
    for own in kinds.values():
        for number, place in enumerate(own):
            (verdict if number % _EVERY == _EVERY - 1 else search).append(place)
    if not verdict:
        verdict.append(search.pop())
    return Parts(tuple(sorted(search, key=_rank)), tuple(sorted(verdict, key=_rank)))


def _rank(place: Place) -> str:
    text = f"{place.task} {' '.join(map(str, place.token_ids))}"
    return hashlib.sha256(text.encode()).hexdigest()
