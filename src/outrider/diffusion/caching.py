"""Which rows of a text are computed in a round, and which are stored for later ones.

A denoiser reads in both directions, so a stored row is an approximation as soon as another position
changes. The modes differ in which rows they trust.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from outrider.core.types import BoolArray, IntArray

_NEIGHBOURS = 4
"""Open positions that a round of `GreedyCache` computes beside those that it commits."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Situation:
    """A text at the beginning of a round. Positions count from the beginning of the prompt.

    Attributes:
        prompt: length of the prompt.
        start: first position of the active block.
        stop: the position behind the window.
        visit: rounds that ended while this block was active.
        held: `[length]`, positions that hold a token and not the mask.
        stored: positions of which rows are stored, ascending.
        recent: positions that the last round has committed, ascending.
        planned: positions that the round will commit, if that is known.
    """

    prompt: int
    start: int
    stop: int
    visit: int
    held: BoolArray
    stored: IntArray
    recent: IntArray
    planned: IntArray | None = None

    @property
    def length(self) -> int:
        """Positions of the text."""
        return len(self.held)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plan:
    """The rows of one forward.

    Attributes:
        rows: positions that are computed; None: all, and nothing that is stored is read.
        keep: positions whose rows are stored; None: none.
        fresh: everything that is stored is dropped before the forward.
    """

    rows: IntArray | None = None
    keep: IntArray | None = None
    fresh: bool = False


class Caching(ABC):
    """A mode, for one text; without a store unless it says so.

    Attributes:
        stores: whether rows are stored.
        prefills: whether the prompt is read alone before the first round.
    """

    stores = True
    prefills = False

    def __init__(self, refresh: int) -> None:
        self.refresh = refresh

    def whole(self, now: Situation) -> bool:
        """Whether all rows are computed: in the first round of a block, and every `refresh`
        rounds."""
        return now.visit == 0 or (self.refresh > 0 and now.visit % self.refresh == 0)

    @abstractmethod
    def plan(self, now: Situation) -> Plan:
        """Return the rows of the forward that begins a round."""

    def branch(self, now: Situation) -> Plan:
        """Return the rows of a second forward of the round, for texts that differ from the first
        one at one position of the window. Nothing is stored."""
        if self.refresh == 1:
            return Plan()
        return Plan(rows=np.arange(now.start, now.stop))


class NoCache(Caching):
    """All rows are computed in each round."""

    stores = False

    def plan(self, now: Situation) -> Plan:
        """Return the rows of the forward that begins a round."""
        return Plan()

    def branch(self, now: Situation) -> Plan:
        """Return the rows of a second forward of the round."""
        return Plan()


class PrefixCache(Caching):
    """Fast-dLLM: rows before the active block are stored; it and all behind it are computed."""

    def plan(self, now: Situation) -> Plan:
        """Return the rows of the forward that begins a round."""
        if self.whole(now):
            return Plan(keep=np.arange(now.start), fresh=True)
        return Plan(rows=np.arange(now.start, now.length))

    def branch(self, now: Situation) -> Plan:
        """Return the rows of a second forward of the round."""
        return Plan() if self.refresh == 1 else Plan(rows=np.arange(now.start, now.length))


class DualCache(Caching):
    """Fast-dLLM: only the window is computed; rows before and behind it are stored."""

    def plan(self, now: Situation) -> Plan:
        """Return the rows of the forward that begins a round."""
        if self.whole(now):
            return Plan(keep=np.arange(now.length), fresh=True)
        window = np.arange(now.start, now.stop)
        return Plan(rows=window, keep=window)


class DelayedCache(Caching):
    """dKV-Cache-Decode: a row is stored one round after its token was committed.

    The key and value of a position change most when it turns from the mask to a token. The row that
    is stored is the first one that was computed from the token. The first two rounds of a block
    compute all rows.
    """

    def whole(self, now: Situation) -> bool:
        """Whether all rows are computed."""
        return now.visit < 2 or (self.refresh > 0 and now.visit % self.refresh == 0)

    def plan(self, now: Situation) -> Plan:
        """Return the rows of the forward that begins a round."""
        held = np.flatnonzero(now.held)
        if self.whole(now):
            return Plan(keep=held, fresh=True)
        rows = np.setdiff1d(np.arange(now.length), now.stored)
        return Plan(rows=rows, keep=np.intersect1d(rows, held))

    def branch(self, now: Situation) -> Plan:
        """Return the rows of a second forward of the round."""
        if self.refresh == 1:
            return Plan()
        return Plan(rows=np.setdiff1d(np.arange(now.length), now.stored))


class GreedyCache(DelayedCache):
    """dKV-Cache-Greedy: a round computes the positions of the last round, those that it will
    commit, and a few open ones beside these. All others are read as they were computed last.

    It needs an order that is known beforehand.
    """

    def plan(self, now: Situation) -> Plan:
        """Return the rows of the forward that begins a round."""
        if self.whole(now):
            return Plan(keep=np.arange(now.length), fresh=True)
        assert now.planned is not None
        beside = _beside(now.planned, np.flatnonzero(~now.held), _NEIGHBOURS)
        rows = np.union1d(np.union1d(now.recent, now.planned), beside)
        return Plan(rows=rows, keep=rows)


def _beside(positions: IntArray, masked: IntArray, count: int) -> IntArray:
    """Return up to `count` open positions beside some others, alternately from left and right."""
    open_ones = np.setdiff1d(masked, positions)
    left = open_ones[open_ones < positions[0]][::-1].tolist()
    right = open_ones[open_ones > positions[0]].tolist()
    found: list[int] = []
    while len(found) < count and (left or right):
        for side in (left, right):
            if side and len(found) < count:
                found.append(side.pop(0))
    return np.sort(np.asarray(found, dtype=np.int64))


class PromptCache(Caching):
    """Dimple: the prompt is read once, alone, and never sees the answer."""

    prefills = True

    def plan(self, now: Situation) -> Plan:
        """Return the rows of the forward that begins a round."""
        return Plan(rows=np.arange(now.prompt, now.length))

    def branch(self, now: Situation) -> Plan:
        """Return the rows of a second forward of the round."""
        return self.plan(now)


_MODES: dict[str, type[Caching]] = {
    "none": NoCache,
    "prefix": PrefixCache,
    "dual": DualCache,
    "delayed": DelayedCache,
    "greedy": GreedyCache,
    "prompt": PromptCache,
}


def caching_of(name: str, refresh: int) -> Caching:
    """Return a mode by its name, for one text."""
    return _MODES[name](refresh)
