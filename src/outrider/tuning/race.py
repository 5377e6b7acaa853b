"""The race: which arm is fastest, by paired times on the same prompts.

In each block of prompts, plain decoding and every arm that is left write every prompt; the first
one rotates from prompt to prompt, so that a drift of the machine meets all of them. Sequential
halving (Karnin et al., "Almost Optimal Exploration in Multi-Armed Bandits", ICML 2013) shares the
budget: as many rounds as halvings, each with an equal part of the texts, and after each the slower
half leaves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil, log2
from statistics import fmean

from outrider.tuning.intervals import Speedup, log_ratio

BLOCK = 8
"""Prompts between two checks of who leaves early."""

Write = Callable[[str, int, int], float]
"""Writes one text: `(arm, number of the prompt, repeat)` -> its seconds per token."""


def never() -> bool:
    """The condition of a race without a deadline."""
    return False


@dataclass(slots=True, kw_only=True)
class Entry:
    """One arm of a race.

    Attributes:
        name: name of the arm.
        learns: whether its first texts are for learning and are left out of its mean.
        logs: `log_ratio` of each text, in order.
        rounds: halvings that it has survived.
    """

    name: str
    learns: bool = False
    logs: list[float] = field(default_factory=list[float])
    rounds: int = 0

    @property
    def counted(self) -> list[float]:
        """The ratios that count: without the first ones of an arm that learns."""
        return self.logs[min(BLOCK, len(self.logs) // 2) :] if self.learns else self.logs

    @property
    def mean(self) -> float:
        """Mean of the ratios that count; 0 without any."""
        return fmean(self.counted) if self.logs else 0.0

    @property
    def speedup(self) -> Speedup | None:
        """The speedup with its 95 % interval."""
        return Speedup.of(self.counted)


@dataclass(slots=True, kw_only=True)
class Race:
    """A race of arms against plain decoding.

    Attributes:
        arms: the arms, in any order.
        plain: name of plain decoding.
        prompts: number of prompts.
        write: writes one text.
        texts: texts that may be written, those of plain decoding included.
        ended: whether to stop before the next prompt, as the time is used up.
    """

    arms: Sequence[Entry]
    plain: str
    prompts: int
    write: Write
    texts: int
    ended: Callable[[], bool] = never
    _next: int = 0

    def run(self) -> list[Entry]:
        """Run the race; return all arms, the best first.

        Arms that stayed longer come first, and of those that left together the faster one.
        """
        alive = list(self.arms)
        for _ in range(ceil(log2(len(alive))) if len(alive) > 1 else len(alive)):
            if self.ended():
                break
            alive = self._round(alive)
            alive = _fastest(alive, max(ceil(len(alive) / 2), 1))
            for arm in alive:
                arm.rounds += 1
        return sorted(self.arms, key=lambda arm: (arm.rounds, arm.mean), reverse=True)

    def _round(self, alive: list[Entry]) -> list[Entry]:
        """Give every arm its part of the texts; return those that have not left early."""
        left = self.texts // max(ceil(log2(len(self.arms))), 1)
        for number in count(1):
            if left < len(alive) + 1 and number > 1:
                break
            self._write(alive)
            left -= len(alive) + 1
            if self.ended():
                break
            if number % BLOCK == 0:
                alive = _unbeaten(alive)
        return alive

    def _write(self, alive: Sequence[Entry]) -> None:
        """Write the next prompt with plain decoding and all arms."""
        names = [arm.name for arm in alive]
        found = compared(self.write, self.plain, names, self._next, self.prompts)
        for arm in alive:
            arm.logs.append(found[arm.name])
        self._next += 1


def compared(
    write: Write, plain: str, arms: Sequence[str], number: int, prompts: int
) -> dict[str, float]:
    """Write one prompt with plain decoding and arms, in an order that rotates.

    Args:
        write: writes one text.
        plain: name of plain decoding.
        arms: names of the arms.
        number: how many prompts were written before.
        prompts: how many prompts there are; they come again, once all are used.

    Returns:
        `log_ratio` of each arm.
    """
    repeat, prompt = divmod(number, prompts)
    names = [plain, *arms]
    first = number % len(names)
    seconds = {name: write(name, prompt, repeat) for name in [*names[first:], *names[:first]]}
    return {arm: log_ratio(seconds[plain], seconds[arm]) for arm in arms}


def _fastest(arms: Sequence[Entry], kept: int) -> list[Entry]:
    return sorted(arms, key=lambda arm: arm.mean, reverse=True)[:kept]


def _unbeaten(arms: list[Entry]) -> list[Entry]:
    """Return the arms whose upper bound is not under the lower bound of the leader."""
    [leader] = _fastest(arms, 1)
    found = leader.speedup
    floor = found.low if found is not None else 0.0
    kept: list[Entry] = []
    for arm in arms:
        own = arm.speedup
        if arm is leader or own is None or own.high >= floor:
            kept.append(arm)
    return kept
