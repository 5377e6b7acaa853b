"""How much of their texts the draft models may read in one step."""

from dataclasses import dataclass


@dataclass(slots=True)
class ReadingRows:
    """Rows that the draft models of one step may still read; its requests share them.

    Attributes:
        left: rows that are left.
        short: whether a text had to wait because there were too few.
    """

    left: int
    short: bool = False

    def take(self, wanted: int) -> int:
        """Return how many of the `wanted` rows may be read, and take them."""
        given = min(wanted, self.left)
        self.left -= given
        self.short = self.short or given < wanted
        return given
