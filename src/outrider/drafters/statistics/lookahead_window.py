"""The window of lookahead decoding: guesses for future places, a row for each iteration."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random


@dataclass(slots=True)
class Window:
    """Rows of guesses. With p the place of the last token of the text, the guess in row r and
    column i stands at place p + i + r; that of row 0 and column 0 is the last token itself, and
    what is stored there is not read.

    Attributes:
        most_rows: rows of a full window; it begins with one.
        columns: guesses in each row.
        source: tokens that guesses are copied from where none was made.
        random: picks them.
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
        """Whether its columns are whole n-grams once the next row is known."""
        return len(self.rows) == self.most_rows

    def columns_within(self, depth: int, nodes: int) -> int:
        """Columns that a budget has room for; the deepest guess is `rows + columns - 2` deep."""
        height = len(self.rows)
        return max(min(self.columns, depth + 2 - height, (nodes + 1) // height), 0)

    def take(self, row: list[int]) -> None:
        """What the target would write after the last row, for the first columns."""
        self.next = row

    def move(self, tokens: int) -> None:
        """The text grew by `tokens`: shift every row, drop the oldest where the window is full."""
        self.shown = 0
        if self.next and tokens:
            self.rows.append(self._padded(self.next))
            if len(self.rows) > self.most_rows:  # its rows stand one place further on
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
