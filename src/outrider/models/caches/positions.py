"""Where the tokens of one text stand, for position embeddings: without gaps, with some, or spread
over the rows and columns of images."""

from dataclasses import dataclass, field

import numpy as np

from outrider.core.types import NO_IDS, IntArray


@dataclass(frozen=True, slots=True)
class Places:
    """Positions of the tokens of one text. Never changed: copies of a cache share it.

    An image's tokens stand at several places each: in time, height and width (mRoPE). Their
    position is the largest of them. What follows the image stands behind all of it, which is
    mostly fewer places on than it has tokens: the text then runs behind its indices.

    Attributes:
        given: `[n]` positions of the first tokens; what is irregular lies among them.
        shift: token i >= n stands at `i + shift`, on all axes.
        axes: `[3, n]` the places of the same tokens; None: each stands at one place.
    """

    given: IntArray = field(default_factory=NO_IDS.copy)
    shift: int = 0
    axes: IntArray | None = None

    @classmethod
    def of(cls, places: IntArray) -> "Places":
        """The places of a text that goes on from the last of them: `[n]`, or `[3, n]`."""
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
        """How many places the text runs behind its indices."""
        return max(-self.shift, 0)

    def at(self, index: int) -> int:
        """The position of token `index`."""
        return int(self.given[index]) if index < len(self.given) else index + self.shift

    def between(self, start: int, stop: int) -> IntArray:
        """The positions of tokens `start .. stop`."""
        count = len(self.given)
        if start >= count:
            return np.arange(start + self.shift, stop + self.shift)
        return np.concatenate(
            (self.given[start:stop], np.arange(count + self.shift, stop + self.shift))
        )

    def spread(self, start: int, stop: int) -> IntArray | None:
        """`[3, stop - start]` places of tokens `start .. stop`; None where each stands at one."""
        if self.axes is None or start >= len(self.given):
            return None
        axes = self._all(start, stop)
        return None if _is_flat(axes) else axes

    def cut(self, length: int) -> "Places":
        """Those of the first `length` tokens alone."""
        return self if length > len(self.given) else Places.of(self._all(0, length))

    def joined(self, length: int, places: IntArray) -> "Places":
        """Those of the first `length` tokens, and `places` (`[n]` or `[3, n]`) after them."""
        before, after = self._all(0, length), np.atleast_2d(places)
        wide = max(len(before), len(after))
        sides = [np.broadcast_to(side, (wide, side.shape[1])) for side in (before, after)]
        return Places.of(np.concatenate(sides, axis=1))

    def differ(self, places: IntArray) -> IntArray:
        """Indices of the tokens that do not stand at `places`, `[n]` or `[3, n]`."""
        axes = np.atleast_2d(places)
        return np.flatnonzero((self._all(0, axes.shape[1]) != axes).any(axis=0))

    def _all(self, start: int, stop: int) -> IntArray:
        """`[3, stop - start]`, or `[1, stop - start]` where no token of the text has several."""
        own = self.between(start, stop)
        if self.axes is None:
            return own[None]
        known = self.axes[:, start:stop]
        rest = np.broadcast_to(own[known.shape[1] :], (len(known), len(own) - known.shape[1]))
        return np.concatenate((known, rest), axis=1)


def _is_flat(axes: IntArray) -> bool:
    """Whether each token stands at one place."""
    return bool((axes == axes[:1]).all())
