"""Which chunks are read now: top-k by score, pins, a budget, and swaps with hysteresis."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from outrider.context.config import ContextConfig
from outrider.context.ranking import Index
from outrider.types import LongContext, Passage


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the scores.

    Attributes:
        generated: tokens written before it.
        scores: `[chunks]`.
        admitted: chunks that are read from now on.
        evicted: chunks that are not.
        chosen: all that are read from now on, ascending.
    """

    generated: int
    scores: Float64[np.ndarray, " chunks"]
    admitted: tuple[int, ...]
    evicted: tuple[int, ...]
    chosen: tuple[int, ...]


@dataclass(slots=True)
class Selection:
    """The state of one selection. Deterministic: equal scores go to the lower index.

    Attributes:
        context: what is selected from.
        index: scores it.
        config: k, hysteresis, swaps.
        room: most tokens that all chosen chunks may have together.
        looks: what happened so far; the first is the choice before the prompt was read.
    """

    context: LongContext
    index: Index
    config: ContextConfig
    room: int
    looks: list[Look] = field(default_factory=list)

    @property
    def chosen(self) -> tuple[int, ...]:
        """Chunks that are read now, ascending."""
        return self.looks[-1].chosen

    def begin(self) -> Look:
        """The first choice: pins, then the best by the instruction. Raises `ContextError` when the
        pinned chunks, or where there are none a single chunk, do not fit into `room`."""
        raise NotImplementedError

    def look(self, generated: int, recent: Passage) -> Look:
        """Score again by the instruction and what was written last, and swap where that pays."""
        raise NotImplementedError

    def fork(self) -> "Selection":
        """An independent copy of the state."""
        raise NotImplementedError
