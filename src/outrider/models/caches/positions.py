"""Positions of the tokens of one text for position embeddings: without gaps, with gaps, or along
the rows and columns of images.
"""

from dataclasses import dataclass, field

import numpy as np

from outrider.core.types import NO_IDS, IntArray


@dataclass(frozen=True, slots=True)
class Places:
    """Positions of the tokens of one text. Immutable, so copies of a cache share it.

    Each image token has several places: in time, height and width (mRoPE). Its position is the
    largest of them. The text after an image continues after the largest position of the image. An
    image usually takes fewer positions than it has tokens, so positions then lag behind indices.

    Attributes:
        given: `[n]` positions of the first tokens, up to the last irregular one.
        shift: token i >= n has position `i + shift` on all axes.
        axes: `[3, n]` the places of the same tokens; None if each has one place.
    """

    given: IntArray = field(default_factory=NO_IDS.copy)
    shift: int = 0
    axes: IntArray | None = None

    @classmethod
    def of(cls, places: IntArray) -> "Places":
        """Build the places of a text that continues after `places`, `[n]` or `[3, n]`."""
        axes = np.atleast_2d(places)
        count = axes.shape[1]
        if not count:
            return cls()
        ahead = axes - np.arange(count)
        shift = int(ahead[:, -1].max())
        odd = np.flatnonzero((ahead != shift).any(axis=0))
        first = int(odd[-1]) + 1 if len(odd) else 0
        axes = axes[:, :first].copy()
        return cls(axes.max(axis=0), shift, None if _is_flat(axes) else axes)

    @property
    def lag(self) -> int:
        """Number of places by which positions lag behind indices."""
        return max(-self.shift, 0)

    def at(self, index: int) -> int:
        """Return the position of token `index`."""
        return int(self.given[index]) if index < len(self.given) else index + self.shift

    def between(self, start: int, stop: int) -> IntArray:
        """Return the positions of tokens `start .. stop`."""
        count = len(self.given)
        if start >= count:
            return np.arange(start + self.shift, stop + self.shift)
        return np.concatenate(
            (self.given[start:stop], np.arange(count + self.shift, stop + self.shift))
        )

    def spread(self, start: int, stop: int) -> IntArray | None:
        """Return `[3, stop - start]` places of tokens `start .. stop`; None if each has just
        one.
        """
        if self.axes is None or start >= len(self.given):
            return None
        axes = self._all(start, stop)
        return None if _is_flat(axes) else axes

    def cut(self, length: int) -> "Places":
        """Return the places of the first `length` tokens."""
        return self if length > len(self.given) else Places.of(self._all(0, length))

    def joined(self, length: int, places: IntArray) -> "Places":
        """Return the places of the first `length` tokens, then `places`, `[n]` or `[3, n]`."""
        before, after = self._all(0, length), np.atleast_2d(places)
        wide = max(len(before), len(after))
        sides = [np.broadcast_to(side, (wide, side.shape[1])) for side in (before, after)]
        return Places.of(np.concatenate(sides, axis=1))

    def differ(self, places: IntArray) -> IntArray:
        """Return the indices of tokens whose places differ from `places`, `[n]` or `[3, n]`."""
        axes = np.atleast_2d(places)
        return np.flatnonzero((self._all(0, axes.shape[1]) != axes).any(axis=0))

    def _all(self, start: int, stop: int) -> IntArray:
        """Return `[3, stop - start]` places, or `[1, stop - start]` if no token has several."""
        own = self.between(start, stop)
        if self.axes is None:
            return own[None]
        known = self.axes[:, start:stop]
        rest = np.broadcast_to(own[known.shape[1] :], (len(known), len(own) - known.shape[1]))
        return np.concatenate((known, rest), axis=1)


def _is_flat(axes: IntArray) -> bool:
    """Whether each token has one place."""
    return bool((axes == axes[:1]).all())
