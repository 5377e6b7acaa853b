"""Lexical units, and the inputs and labels that a target is tuned on.

Row r of a text reads token r and predicts token r + 1. A *lexical unit* is a run of rows whose next
tokens the frozen target finds very likely (Sun et al. 2024, arXiv 2405.15208).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import BoolArray, IntArray, as_ids

PAD, NONE = -1, -1
"""The input of a pad, and the label of a row without one."""

Span = tuple[int, int]
"""The first row of a run, and the row after its last one."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The rows of one text.

    Attributes:
        ids: `[rows]` inputs; `PAD` for a pad.
        labels: `[rows]` tokens to predict; `NONE` for rows of the prompt.
        positions: `[rows]` places in the text.
        seen: `[rows, rows]` the rows that each row reads.
    """

    ids: IntArray
    labels: IntArray
    positions: IntArray
    seen: BoolArray


def lexical_units(chances: NDArray[np.float64], alpha: float, first: int) -> list[Span]:
    """Return the maximal runs of rows, from row `first` on, whose next tokens have a probability
    above `alpha`.

    Args:
        chances: `[rows]` the probability of the token after each row.
        alpha: the limit.
        first: the last row of the prompt, which predicts the first token of the answer.
    """
    high = np.concatenate(([False], chances > alpha, [False]))
    high[: first + 1] = False
    edges = np.flatnonzero(high[1:] != high[:-1])
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def passes(units: Sequence[Span], k: int) -> list[Span]:
    """Return the units cut into passes of at most k rows, without those of a single row: the first
    row of each reads its token, the others are pads."""
    return [
        (row, min(row + k, stop))
        for start, stop in units
        for row in range(start, stop, k)
        if min(row + k, stop) - row > 1
    ]


def plain(ids: IntArray, first: int) -> Sample:
    """Return a text as it is: each row reads itself and all before. Prompts have no labels."""
    count = len(ids) - 1
    labels = ids[1:].copy()
    labels[:first] = NONE
    return Sample(ids[:-1], labels, np.arange(count), np.tri(count, dtype=np.bool_))


def in_place(ids: IntArray, first: int, runs: Sequence[Span]) -> Sample:
    """Return the sample of the paper: within each run, the inputs after its first row are pads, and
    labels stay. Later rows read the pads."""
    whole = plain(ids, first)
    inputs = whole.ids.copy()
    for start, stop in runs:
        inputs[start + 1 : stop] = PAD
    return Sample(inputs, whole.labels, whole.positions, whole.seen)


def beside(ids: IntArray, first: int, runs: Sequence[Span]) -> Sample:
    """Return the text as it is, followed by the pads of each run, as decoding reads them: a pad
    reads the text up to the first row of its run, and the pads of the run before it. No row of the
    text reads a pad."""
    whole, count = plain(ids, first), len(ids) - 1
    firsts = as_ids([start for start, stop in runs for _ in range(start + 1, stop)])
    positions = as_ids([row for start, stop in runs for row in range(start + 1, stop)])
    text = np.arange(count)[None] <= firsts[:, None]
    own = (firsts[:, None] == firsts[None]) & (positions[None] <= positions[:, None])
    rows = count + len(positions)
    seen = np.zeros((rows, rows), dtype=np.bool_)
    seen[:count, :count], seen[count:] = whole.seen, np.concatenate((text, own), axis=1)
    return Sample(
        ids=np.concatenate((whole.ids, np.full(len(positions), PAD))),
        labels=np.concatenate((whole.labels, ids[positions + 1])),
        positions=np.concatenate((whole.positions, positions)),
        seen=seen,
    )
