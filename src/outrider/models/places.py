"""Where the tokens of one text stand, for position embeddings: without gaps, or with some."""

from dataclasses import dataclass, field

import numpy as np

from outrider.types import NO_IDS, IntArray


@dataclass(frozen=True, slots=True)
class Places:
    """Positions of the tokens of one text. Never changed: copies of a cache share it.

    Attributes:
        given: `[n]` those of the first tokens, ascending; all gaps lie among them.
        shift: token i >= n stands at `i + shift`.
    """

    given: IntArray = field(default_factory=NO_IDS.copy)
    shift: int = 0

    @classmethod
    def of(cls, positions: IntArray) -> "Places":
        """The places of a text that stands at `positions` and goes on from the last of them."""
        if not len(positions):
            return cls()
        ahead = positions - np.arange(len(positions))
        first = int(np.searchsorted(ahead, ahead[-1]))
        return cls(positions[:first].copy(), int(ahead[-1]))

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

    def cut(self, length: int) -> "Places":
        """Those of the first `length` tokens alone."""
        return self if length > len(self.given) else Places.of(self.given[:length])

    def joined(self, length: int, positions: IntArray) -> "Places":
        """Those of the first `length` tokens, and `positions` after them."""
        return Places.of(np.concatenate((self.between(0, length), positions)))
