"""The window of lookahead decoding: guesses for future positions, one row per iteration."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random


@dataclass(slots=True)
class Window:
    """Rows of guesses. With p the position of the last token of the text, the guess in row r and
    column i is for position p + i + r. The one in row 0 and column 0 is the last token itself, and
    its stored value is not read.

    Attributes:
        most_rows: rows of a full window; it begins with one.
        columns: guesses in each row.
        source: tokens from which missing guesses are copied.
        random: selects these tokens.
        rows: the guesses, oldest iteration first.
        shown: columns of this round's draft.
        next: the row that this round's verification added, as far as it was read.
    """

    most_rows: int
    columns: int
    source: Sequence[int]
    random: Random
    rows: list[list[int]] = field(default_factory=list)
    shown: int = 0
    next: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._restart()

    @property
    def full(self) -> bool:
        """Whether its columns are complete n-grams once the next row is known."""
        return len(self.rows) == self.most_rows

    def columns_within(self, depth: int, nodes: int) -> int:
        """Return the number of columns that fit the budget; the deepest guess is `rows + columns -
        2` deep.
        """
        height = len(self.rows)
        return max(min(self.columns, depth + 2 - height, (nodes + 1) // height), 0)

    def take(self, row: list[int]) -> None:
        """Store the target's choices after the last row, for the first columns."""
        self.next = row

    def move(self, tokens: int) -> None:
        """Shift every row because the text grew by `tokens`; drop the oldest row of a full
        window."""
        self.shown = 0
        if self.next and tokens:
            self.rows.append(self._padded(self.next))
            if len(self.rows) > self.most_rows:  # the other rows are one position further
                del self.rows[0]
                tokens -= 1
        self.next = []
        if tokens >= self.columns:
            self._restart()
        elif tokens:
            self.rows = [self._padded(row[tokens:]) for row in self.rows]

    def _restart(self) -> None:
        self.rows = [self._padded([])]

    def _padded(self, row: list[int]) -> list[int]:
        missing = self.columns - len(row)
        return [*row, *(self.random.choice(self.source) for _ in range(missing))]
