"""Where the n-grams of a growing text stand: a rolling hash, and a table for each length.

A look-up costs one hash and one table access for each length, whatever the size of the text. A
prompt is hashed by whole arrays; later tokens one by one, by the rolling form of the same hash, so
both ways give the same tables. Equal hashes are not taken for equal tokens: on a hit the tokens are
compared, so that a collision costs a match and never makes a wrong one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import OptionError

OCCURRENCES = ("latest", "first", "only")

_BASE = 0x9E37_79B9_7F4A_7C15
_MASK = (1 << 64) - 1
_BULK = 64
"""From so many tokens on, whole arrays are faster than one token after the other."""
_SEVERAL = -1
_ENTRY_BYTES = 100
"""About what a table needs for an entry: two integers and, on average, 1.5 slots."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An n-gram that stood in the text before.

    Attributes:
        place: index of the token that followed it.
        length: n.
    """

    place: int
    length: int


class NGramIndex:
    """A text, and for each of its n-grams the place after one of its occurrences.

    An n-gram enters the index when the token after it arrives, so the end of the text never finds
    itself. There is one entry at most for each token and length, so the text bounds what is held.

    Args:
        lengths: the n, longest first in every look-up.
        occurrence: `latest` or `first`, the occurrence that is kept; `only` keeps n-grams that
            occur once and knows of the others that they are ambiguous.

    Attributes:
        text: all tokens so far.

    Raises:
        OptionError: no length, a length below 1, or an unknown occurrence.
    """

    def __init__(self, lengths: Sequence[int], occurrence: str = "latest") -> None:
        if not lengths or min(lengths) < 1:
            raise OptionError(f"n-grams of lengths {list(lengths)}", hint="Give lengths from 1 up")
        if occurrence not in OCCURRENCES:
            raise OptionError(
                f"unknown occurrence {occurrence!r}", hint="Give 'latest', 'first' or 'only'"
            )
        self.text: list[int] = []
        self.occurrence = occurrence
        self.lengths = tuple(sorted(set(lengths), reverse=True))
        self.tables: dict[int, dict[int, int]] = {n: {} for n in self.lengths}
        self._hashes = dict.fromkeys(self.lengths, 0)
        self._leaving = {n: pow(_BASE, n, 1 << 64) for n in self.lengths}

    @property
    def nbytes(self) -> int:
        """Bytes held, by formula: a list slot and an integer a token, tables by their entries."""
        return 40 * len(self.text) + _ENTRY_BYTES * sum(map(len, self.tables.values()))

    def is_like(self, other: "NGramIndex") -> bool:
        """Whether both index the same lengths and keep the same occurrence."""
        return (self.lengths, self.occurrence) == (other.lengths, other.occurrence)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append to the text and index the n-grams that now have a follower."""
        if len(tokens) >= _BULK:
            self._extend_at_once(tokens)
        else:
            for token in tokens:
                self._add(token)

    def find(self, tail: Sequence[int] = (), *, behind: int = 1) -> Hit | None:
        """The longest n-gram at the end of `text + tail` that stands in the index.

        The tail itself is not indexed. Of the occurrence `only` an ambiguous n-gram is no hit, and
        none is where fewer than `behind` tokens of the text follow it.
        """
        text = self.text
        recent = text if not len(tail) else [*text[-self.lengths[0] :], *tail]
        for n in self.lengths:
            place = self._place(recent, n, hashed=not len(tail))
            if place is not None and 0 <= place <= len(text) - behind:
                return Hit(place, n)
        return None

    def unique(self, recent: Sequence[int]) -> int | None:
        """Where `recent` must lie: the place after the shortest suffix that occurs only once.

        Widens while the suffix is ambiguous, gives up where it is absent or where it still is
        ambiguous at the longest length (the walk of Aggressive Decoding).
        """
        for n in reversed(self.lengths):
            place = self._place(recent, n)
            if place is None:
                return None
            if place != _SEVERAL:
                return place
        return None

    def _place(self, recent: Sequence[int], n: int, hashed: bool = False) -> int | None:
        if n > len(recent):
            return None
        code = self._hashes[n] if hashed else hash_of(recent[len(recent) - n :])
        place = self.tables[n].get(code)
        if place is None or place == _SEVERAL:
            return place
        same = self.text[place - n : place] == recent[len(recent) - n :]
        return place if same else None

    def _add(self, token: int) -> None:
        """Index what ended before `token`, then roll the hashes over it."""
        text, hashes, place = self.text, self._hashes, len(self.text)
        for n, table in self.tables.items():
            code = hashes[n]
            rolled = code * _BASE + token + 1
            if place >= n:
                self._note(table, code, place)
                rolled -= (text[place - n] + 1) * self._leaving[n]
            hashes[n] = rolled & _MASK
        text.append(token)

    def _note(self, table: dict[int, int], code: int, place: int) -> None:
        if self.occurrence == "latest":
            table[code] = place
        elif table.setdefault(code, place) != place and self.occurrence == "only":
            table[code] = _SEVERAL

    def _extend_at_once(self, tokens: Sequence[int]) -> None:
        """As `_add` for each token. Only n-grams that reach past the old end are new."""
        begin = len(self.text)
        self.text.extend(tokens)
        start = max(begin - self.lengths[0], 0)
        window = np.array(self.text[start:], dtype=np.uint64)
        for n in self.lengths:
            if len(self.text) < n:
                self._hashes[n] = hash_of(self.text)
                continue
            first = max(begin, n)  # the first place whose n-gram is new
            codes = hashes_of(window[first - n - start :], n)
            self._hashes[n] = int(codes[-1])
            self._merge(n, codes[:-1], first)

    def _merge(self, n: int, codes: NDArray[np.uint64], first: int) -> None:
        """Enter n-grams by their hashes; the first of them has its follower at `first`."""
        table = self.tables[n]
        if self.occurrence == "latest":
            table.update(zip(codes.tolist(), range(first, first + len(codes)), strict=True))
            return
        unique, index, counts = np.unique(codes, return_index=True, return_counts=True)
        places = np.where(counts > 1, _SEVERAL, first + index)
        if self.occurrence == "first":
            places = first + index
        for code, place in zip(unique.tolist(), places.tolist(), strict=True):
            if code not in table:
                table[code] = place
            elif self.occurrence == "only":
                table[code] = _SEVERAL


def hash_of(tokens: Sequence[int]) -> int:
    """The polynomial hash of a few tokens, modulo 2^64."""
    code = 0
    for token in tokens:
        code = code * _BASE + token + 1
    return code & _MASK


def hashes_of(tokens: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """The hashes of all n-grams of `tokens` (at least n of them), in order."""
    count = len(tokens) - n + 1
    codes = np.zeros(count, dtype=np.uint64)
    for offset in range(n):
        codes *= np.uint64(_BASE)
        codes += tokens[offset : offset + count] + np.uint64(1)
    return codes
