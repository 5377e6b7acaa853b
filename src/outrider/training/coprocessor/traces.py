"""Places of a text at which latents are inserted, and which rows read which.

A trace is one insertion: latents after the first `point` tokens of a text, then the next tokens of
the text as they are, whose successors are the labels. All traces of a text are computed together,
beside the cache of the text. A row reads the tokens before the point of its own trace and the
earlier rows of this trace; it reads neither another trace nor the text after the point.
"""

from dataclasses import dataclass

import numpy as np

from outrider.core.types import BoolArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """The traces of one text.

    Attributes:
        ids: `[tokens]` of the text.
        points: `[traces]` ascending numbers of tokens that are read before the latents, from 0.
        latents: number of latents of each trace.
        ahead: number of tokens after the latents whose successors are labels.
    """

    ids: IntArray
    points: IntArray
    latents: int
    ahead: int

    @property
    def length(self) -> int:
        """Tokens of the text that some trace reads from its cache."""
        return int(self.points.max())

    @property
    def tokens(self) -> IntArray:
        """Return `[traces, ahead]`: the tokens of the text after each point."""
        return self.ids[self.points[:, None] + np.arange(self.ahead)]

    @property
    def labels(self) -> IntArray:
        """Return `[traces, ahead]`: their successors."""
        return self.ids[self.points[:, None] + 1 + np.arange(self.ahead)]

    def positions(self, rows: int) -> IntArray:
        """Return `[traces * rows]`: positions of the first rows of each trace: latents, tokens."""
        return (self.points[:, None] + np.arange(rows)).reshape(-1)

    def seen(self, rows: int, window: int | None = None) -> BoolArray:
        """Return which rows are read, with `rows` rows of each trace.

        Returns:
            `[traces * rows, length + traces * rows]`: the tokens in the cache, then all rows.
        """
        places = self.positions(rows)
        trace = np.repeat(np.arange(len(self.points)), rows)
        text = np.arange(self.length)[None] < self.points[trace][:, None]
        own = (trace[:, None] == trace[None]) & (places[None] <= places[:, None])
        seen = np.concatenate((text, own), axis=1)
        if window is not None:
            slots = np.concatenate((np.arange(self.length), places))
            seen &= places[:, None] - slots[None] < window
        return seen


def spread(tokens: int, points: int, ahead: int, rng: np.random.Generator) -> IntArray:
    """Return `[points]` ascending places, one drawn from each of as many equal parts of a text.

    At least one token is before each place, and `ahead + 1` are after it.
    """
    bounds = np.linspace(1, tokens - ahead, points + 1).astype(np.int64)
    return rng.integers(bounds[:-1], bounds[1:])
