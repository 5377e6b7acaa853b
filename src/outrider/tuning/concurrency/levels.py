"""How long drafts may be at each number of requests: chosen on some prompts, judged on others.

At each number, in ascending order, plain decoding and the arm under several limits serve the same
requests in turn. The best limit is judged again on other prompts: it is kept only where it is not
slower than plain decoding. No limit is larger than that of fewer requests, because a drafted row
costs more the more rows a forward has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from outrider.core.values import JsonValue
from outrider.policies.schedule import Cap, Schedule
from outrider.tuning.intervals import Speedup
from outrider.tuning.verdict import ERROR

LOOKS = (4, 8, 16, 32)
"""Blocks after which a limit is judged; each look has its part of the error."""
CHOICE = 6
"""Blocks that a limit is chosen by, at most."""
NOT_SLOWER = 0.97
"""Lower bound with which a limit is kept, if its mean is at least 1."""
_MOST_CAPS = 3


class Part(StrEnum):
    """Which prompts a block has."""

    CHOICE = "choice"
    JUDGING = "judging"


Serve = Callable[[int, Sequence[Cap], Part, int], Mapping[Cap, float]]
"""Serves one block: `(requests at once, limits, part, number of the block)` -> for each limit,
`log_ratio` of the seconds of plain decoding and of the arm under this limit, for the same requests.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What was found for one number of requests at once.

    Attributes:
        concurrency: the number.
        cap: the limit; 0: plain decoding.
        speedup: of the limit that was judged, over plain decoding; None: nothing was judged.
        judged: that limit.
        tried: by limit (`any`: none), the speedup where it was chosen.
    """

    concurrency: int
    cap: Cap
    speedup: Speedup | None = None
    judged: Cap = 0
    tried: Mapping[str, Speedup] = field(default_factory=dict[str, Speedup])

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data; `from_dict` reads it."""
        return {
            "concurrency": self.concurrency,
            "cap": self.cap,
            "speedup": None if self.speedup is None else self.speedup.to_dict(),
            "judged": self.judged,
            "tried": {name: own.to_dict() for name, own in self.tried.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Level":
        """Read what `to_dict` returned."""
        speedup = None if data["speedup"] is None else Speedup.from_dict(data["speedup"])
        tried = {name: Speedup.from_dict(own) for name, own in data["tried"].items()}
        return cls(**{**data, "speedup": speedup, "tried": tried})


@dataclass(slots=True, kw_only=True)
class Levels:
    """Finds the limit for each number of requests.

    Attributes:
        numbers: numbers of requests, ascending.
        first: the limit for a single request.
        serve: serves a block.
        ended: whether the time for this number of requests is over, given whether it is time for
            choosing only.
        found: what is known; those of an earlier run are not measured again.
        told: called after each number.
    """

    numbers: Sequence[int]
    first: Cap
    serve: Serve
    ended: Callable[[bool], bool]
    found: list[Level] = field(default_factory=list[Level])
    told: Callable[[], None] = lambda: None

    def run(self) -> list[Level]:
        """Measure all numbers that are not known; return all."""
        cap = self.found[-1].cap if self.found else self.first
        for number in self.numbers[len(self.found) :]:
            level = Level(concurrency=number, cap=0) if cap == 0 else self._level(number, cap)
            cap = level.cap
            self.found.append(level)
            self.told()
        return self.found

    def _level(self, number: int, most: Cap) -> Level:
        best, tried = self._chosen(number, ladder(most))
        logs: list[float] = []
        keep, found = False, None
        for look in LOOKS:
            while len(logs) < look and not self.ended(False):
                logs.append(self.serve(number, [best], Part.JUDGING, len(logs))[best])
            found = Speedup.of(logs, ERROR / len(LOOKS))
            keep = found is not None and found.low >= NOT_SLOWER and found.mean >= 1.0
            decided = found is not None and (found.low > 1.0 or found.high < 1.0)
            if decided or len(logs) < look:
                break
        cap = best if keep or (best is None and _undecided(found)) else 0
        return Level(concurrency=number, cap=cap, speedup=found, judged=best, tried=tried)

    def _chosen(self, number: int, caps: Sequence[Cap]) -> tuple[Cap, Mapping[str, Speedup]]:
        """Return the best limit, and the speedup of each."""
        logs: dict[Cap, list[float]] = {cap: [] for cap in caps}
        for block in range(CHOICE if len(caps) > 1 else 0):
            if block and self.ended(True):
                break
            for cap, log in self.serve(number, caps, Part.CHOICE, block).items():
                logs[cap].append(log)
        found = {cap: own for cap, each in logs.items() if (own := Speedup.of(each)) is not None}
        best = max(found, key=lambda cap: found[cap].mean) if found else caps[0]
        return best, {named(cap): own for cap, own in found.items()}


def ladder(most: Cap) -> list[Cap]:
    """Return the limits that are tried: the largest one, and halves of it. A policy that chooses
    lengths itself has no limit."""
    if most is None:
        return [None]
    caps: list[Cap] = []
    while most and len(caps) < _MOST_CAPS:
        caps.append(most)
        most //= 2
    return caps


def schedule_of(first: Cap, levels: Sequence[Level]) -> Schedule:
    """Return the schedule of a single request and of all levels."""
    return Schedule({1: first} | {level.concurrency: level.cap for level in levels})


def named(cap: Cap) -> str:
    """Return a limit in words."""
    return "any" if cap is None else str(cap)


def _undecided(found: Speedup | None) -> bool:
    """Whether an arm that adapts its lengths may go on: the guard and its policy watch it."""
    return found is None or found.high >= 1.0
