"""The history of one selection during its answer."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from outrider.context.reading import Reading
from outrider.core.types import LongContext


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The chunks and scores of one selection during its answer.

    Attributes:
        context: the long input.
        times: `[decisions + 1]` generated tokens at each scoring, then at the end.
        scores: `[decisions, chunks]`.
        read: `[decisions, chunks]` whether a chunk was read from that scoring to the next.
    """

    context: LongContext
    times: tuple[int, ...]
    scores: Float64[ndarray, "looks chunks"]
    read: Bool[ndarray, "looks chunks"]

    @classmethod
    def of(cls, reading: Reading, written: int) -> "History":
        """Build the history of `reading` after `written` generated tokens."""
        decisions = reading.selection.decisions
        chunks = len(reading.selection.context.chunks)
        read = np.zeros((len(decisions), chunks), dtype=bool)
        for row, decision in zip(read, decisions, strict=True):
            row[list(decision.chosen)] = True
        scores = np.array([decision.scores for decision in decisions]).reshape(
            len(decisions), chunks
        )
        last = max(written, decisions[-1].generated + 1)
        times = (*(decision.generated for decision in decisions), last)
        return cls(context=reading.selection.context, times=times, scores=scores, read=read)

    @property
    def shares(self) -> Float64[ndarray, " chunks"]:
        """Return the share of the answer during which each chunk was read."""
        spans = np.diff(self.times).astype(np.float64)
        return spans @ self.read / spans.sum()

    @property
    def swaps(self) -> list[tuple[int, int, bool]]:
        """List each change after the first choice: generated tokens, chunk, admitted or not."""
        changed = np.argwhere(self.read[1:] != self.read[:-1])
        return [(self.times[i + 1], int(c), bool(self.read[i + 1, c])) for i, c in changed]

    def name(self, chunk: int) -> str:
        """Return the name of a chunk's source; empty for an input without a name."""
        return self.context.names[chunk] if self.context.names else ""
