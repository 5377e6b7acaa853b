"""The beginnings of sentences in the order of their tokens, as a tree that is never built.

Sentences that share a beginning are neighbours in that order, so a beginning is two places in it,
and the places of a longer one are found by binary search.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_HEAD = 32
"""Characters of a text, and the rest of a word, that decide about its first token."""
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Start:
    """A beginning that some sentences share.

    Attributes:
        rows: tokens and number of the sentences with one first token, ascending.
        low: the first of the rows that have this beginning.
        high: the row after the last of them.
        depth: tokens of the beginning.
    """

    rows: Sequence[tuple[tuple[int, ...], int]]
    low: int
    high: int
    depth: int

    @property
    def sentences(self) -> list[int]:
        """Numbers of the sentences that have it, ascending."""
        return sorted(number for _, number in self.rows[self.low : self.high])

    @property
    def open(self) -> bool:
        """Whether one more token tells its sentences apart: there are several, and none ends."""
        # Of several, one that ends here is the first in the order.
        return self.high - self.low > 1 and len(self.rows[self.low][0]) > self.depth

    def next(self) -> list[int]:
        """Return the tokens by which an open beginning goes on, ascending."""
        found: list[int] = []
        place = self.low
        while place < self.high:
            found.append(self.rows[place][0][self.depth])
            place = self._after(found[-1], place)
        return found

    def longer(self, token: int) -> "Start":
        """Return the beginning with one more token, one of `next()`."""
        low = self._after(token - 1, self.low)
        return Start(self.rows, low, self._after(token, low), self.depth + 1)

    def _after(self, token: int, low: int) -> int:
        """Return the row after those that go on by at most this token."""
        return bisect_right(self.rows, token, low, self.high, key=lambda row: row[0][self.depth])


@dataclass(slots=True)
class Starts:
    """The beginnings of all sentences.

    Only the head of each text is encoded at first, for its first token: the first 32 characters up
    to a space. Texts are encoded wholly when their first token is asked for (`at`).

    Attributes:
        texts: the beginning of each sentence.
        encode: returns the tokens of a text.
        firsts: numbers of the sentences with each first token, ascending.
    """

    texts: Sequence[str]
    encode: Callable[[str], tuple[int, ...]]
    firsts: dict[int, list[int]] = field(default_factory=dict[int, list[int]], init=False)

    def __post_init__(self) -> None:
        for number, text in enumerate(self.texts):
            space = _SPACE.search(text, _HEAD)
            tokens = self.encode(text[: space.start()] if space else text)
            if tokens:
                self.firsts.setdefault(tokens[0], []).append(number)

    def at(self, token: int) -> Start:
        """Return the beginning of one token, a key of `firsts`."""
        rows = sorted(
            ((token, *self.encode(self.texts[number])[1:]), number) for number in self.firsts[token]
        )
        return Start(rows, 0, len(rows), 1)
