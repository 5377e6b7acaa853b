"""What a commit rule decides, and what it may read for that."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from outrider.core.checks import Range
from outrider.core.errors import OptionError, nearest
from outrider.core.types import IntArray
from outrider.diffusion.proposals import SUPPRESSED, Proposals
from outrider.protocols.info import ModelInfo

CACHES = ("none", "prefix", "dual", "delayed", "greedy", "prompt")
"""Which keys and values are used again; see `caching.py`."""

STEPS = Range(1, whole=True, optional=True, hint="Give rounds, such as 128, or none")
"""Rounds that are given beforehand, of rules that have them."""

_BLOCK = Range(1, whole=True, optional=True, hint="Give the positions of a block, such as 32")
_REFRESH = Range(0, whole=True, hint="Give rounds, such as 8; 0 for one whole forward in a block")
_GUIDANCE = Range(0.0, 1e6, hint="Give 0 for no guidance, or a scale such as 1.5")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of an answer.

    Attributes:
        number: 0 for the first one.
        start: its first slot.
        stop: the slot behind its last one.
    """

    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def blocks_of(length: int, block: int | None) -> list[Block]:
    """Cut an answer into blocks; the last one may be shorter. None: one block."""
    size = length if block is None else block
    starts = range(0, length, max(size, 1))
    return [Block(number, at, min(at + size, length)) for number, at in enumerate(starts)]


@dataclass(slots=True, eq=False, kw_only=True)
class View:
    """One round, as a rule sees it.

    Attributes:
        proposals: for the open slots of the window. Slots that are committed in this round leave.
        block: the active block: the first one with an open slot.
        visit: rounds that ended while this block was active.
        number: rounds that ended.
        open_slots: open slots of the active block when the round began.
        block_confidences: probability of the best token of each slot of the block, of committed
            slots too; only for rules that read it (`Diffusion.reads_block`).
        taken: tokens that this round has committed.
        allows: whether a token may be committed at a slot, by the constraint of the request.
        commit: commits a token with its log-probability at a slot.
        branches: predictions for the window behind each of some tokens at a slot, in one forward.
    """

    proposals: Proposals
    block: Block
    visit: int
    number: int
    open_slots: int
    allows: Callable[[int, int], bool]
    commit: Callable[[int, int, float], None]
    branches: Callable[[int, Sequence[int]], list[Proposals]]
    block_confidences: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    taken: int = 0

    @property
    def inside(self) -> IntArray:
        """Rows of the proposals whose slots are in the active block."""
        slots = self.proposals.slots
        return np.flatnonzero((slots >= self.block.start) & (slots < self.block.stop))


class Commits(ABC):
    """A rule for one answer."""

    def explore(self, view: View) -> None:  # noqa: B027
        """Read further forwards, once a round, before `choose`. Most rules need none."""

    @abstractmethod
    def choose(self, view: View) -> IntArray:
        """Return the rows of `view.proposals` to commit, in order, the surest first.

        It is called again if a constraint refuses one of them, with `view.taken` tokens committed
        and other proposals. If `view.taken` is 0 and it returns nothing, the loop commits the
        surest token.
        """

    def planned(
        self, block: Block, visit: int, masked: IntArray, places: NDArray[np.float64]
    ) -> IntArray | None:
        """Return the slots that the round will commit, for rules that know it before the forward;
        None for others.

        Args:
            block: the active block.
            visit: rounds that ended while it was active.
            masked: its open slots.
            places: the place of each in a random order, the first one has the largest.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Diffusion(ABC):
    """A way to write an answer; the plain fields of a subclass are its options.

    Attributes:
        block: positions of a block; blocks are written from left to right. None: one block.
        cache: `none`, `prefix` and `dual` (Fast-dLLM), `delayed` and `greedy` (dKV-Cache), or
            `prompt` (Dimple).
        refresh: every so many rounds of a block, all rows are computed again; 0: once in a block.
        early_stop: positions behind a predicted end token are dropped (Learn2PD).
        guidance: scale s of classifier-free guidance by the text with a masked prompt; 0: none.
        suppress: what is done with end tokens: `none`, `logit` (they are never chosen), or
            `confidence` (they are committed last).

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = ""
    reads_block: ClassVar[bool] = False

    block: int | None = 32
    cache: str = "none"
    refresh: int = 0
    early_stop: bool = False
    guidance: float = 0.0
    suppress: str = "none"

    def __post_init__(self) -> None:
        _BLOCK.check("block", self.block)
        _REFRESH.check("refresh", self.refresh)
        _GUIDANCE.check("guidance", self.guidance)
        for name, known in (("cache", CACHES), ("suppress", SUPPRESSED)):
            value = getattr(self, name)
            if value not in known:
                raise OptionError(f"{name} is {value!r}", hint=nearest(str(value), known))
        if self.cache == "greedy" and not self.is_planned:
            raise OptionError(
                "cache=greedy needs an order that is known before the forward",
                hint="Use low-confidence(confidence=random,cache=greedy)",
            )

    @property
    def reach(self) -> int:
        """Blocks of the window: the active one, and those behind it that a round may write in."""
        return 1

    @property
    def is_planned(self) -> bool:
        """Whether the slots of a round are known before its forward (`Commits.planned`)."""
        return False

    def check(self, info: ModelInfo) -> None:  # noqa: B027
        """Raise an error unless the rule can write texts of this model.

        Raises:
            OptionError: it cannot.
        """

    @abstractmethod
    def begin(self, blocks: Sequence[Block]) -> Commits:
        """Return the rule for one answer of these blocks.

        Raises:
            OptionError: the options do not fit the length.
        """
