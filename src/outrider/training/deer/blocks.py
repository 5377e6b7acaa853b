"""Texts with masked blocks: the rows of a forward, which rows see which, and their labels.

The rows of a text come first, and each reads the rows before it. The rows of a block follow: they
stand for the tokens after some place of the text (its cut) and read the text up to there, and the
rows of their own block. Row p predicts token p + 1, as in a language model: the first token of a
block is predicted by the row of the cut itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.core.types import BoolArray, IntArray
from outrider.training.heads.recording import Example

MASK = -1
"""The id of a masked token."""
_LEAST = 0.1
"""The smallest share of masked tokens of a block in stage I: the loss is divided by it."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Tokens behind a place of a text.

    Attributes:
        cut: the place.
        masked: `[size]` which of them are masked.
        weights: `[size]` weight of the loss of each; 0 where it is not masked.
    """

    cut: int
    masked: BoolArray
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of one text with its blocks.

    Attributes:
        ids: `[rows]` token ids, or `MASK`.
        positions: `[rows]` places in the text.
        groups: `[rows]` number of the block, -1 for the text.
        cuts: `[rows]` the last place of the text that a row reads.
        labels: `[labels]` the tokens that are predicted.
        at: `[labels]` the rows that predict them.
        weights: `[labels]` the weights of their losses.
    """

    ids: IntArray
    positions: IntArray
    groups: IntArray
    cuts: IntArray
    labels: IntArray
    at: IntArray
    weights: NDArray[np.float32]


def some_masked(cut: int, size: int, rng: np.random.Generator) -> Block:
    """Return a block of stage I: each token is masked with a chance t, which is drawn first.

    The loss is that of masked diffusion, the sum over masked tokens divided by t and the size.
    """
    share = rng.uniform(_LEAST, 1)
    masked = rng.random(size) < share
    return Block(cut, masked, (masked / (share * size)).astype(np.float32))


def all_masked(cut: int, size: int, growth: float) -> Block:
    """Return a block of stage II: token i of R has the weight `growth ** (R - i) / R`."""
    weights = growth ** np.arange(size - 1, -1, -1.0) / size
    return Block(cut, np.ones(size, dtype=np.bool_), weights.astype(np.float32))


def rows_of(example: Example, blocks: Sequence[Block], plain: float = 0.0) -> Rows:
    """Return the rows of a text with blocks.

    Args:
        example: the text.
        blocks: blocks that end within it.
        plain: the weight of the losses of all tokens of the answer after the text before them,
            together; 0: they have none.
    """
    text = example.ids[:-1]
    ids, positions, groups = [text], [np.arange(len(text))], [np.full(len(text), -1)]
    cuts, start = [np.arange(len(text))], len(text)
    labels, at, weights = [], [], []
    if plain:
        places = np.arange(example.first, len(text))
        labels.append(example.ids[places + 1])
        at.append(places)
        weights.append(np.full(len(places), plain / len(places), dtype=np.float32))
    for number, block in enumerate(blocks):
        size = len(block.masked)
        places = block.cut + 1 + np.arange(size)
        own = np.where(block.masked, MASK, example.ids[places])[:-1]  # the last one has no row
        ids.append(own)
        positions.append(places[:-1])
        groups.append(np.full(size - 1, number))
        cuts.append(np.full(size - 1, block.cut))
        predicting = np.concatenate(([block.cut], start + np.arange(size - 1)))
        start += size - 1
        labels.append(example.ids[places][block.masked])
        at.append(predicting[block.masked])
        weights.append(block.weights[block.masked])
    return Rows(
        np.concatenate(ids),
        np.concatenate(positions),
        np.concatenate(groups),
        np.concatenate(cuts),
        np.concatenate(labels),
        np.concatenate(at),
        np.concatenate(weights),
    )


def seen(rows: Rows, both: bool) -> BoolArray:
    """Return `[rows, rows]`: which rows each row reads.

    With `both`, rows of a block read all of their block, else those up to their own.
    """
    text, own = rows.groups < 0, rows.positions
    found = text[None] & (own[None] <= rows.cuts[:, None])
    block = (rows.groups[:, None] == rows.groups[None]) & ~text[None]
    if not both:
        block &= own[None] <= own[:, None]
    return found | block
