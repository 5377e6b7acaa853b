"""Positions of the n-grams of a growing text: a rolling hash, and a table for each length.

A lookup costs one hash and one table access per length, independent of the size of the text. A
prompt is hashed by array operations, later tokens one by one with the rolling form of the same
hash; both give the same tables. After a hash match the tokens are compared, so a collision can lose
a match, but never produces a wrong one.
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
"""From this number of tokens, array operations are faster than a loop over tokens."""
_SEVERAL = -1
_ENTRY_BYTES = 100
"""Approximate bytes of a table entry: two integers and, on average, 1.5 slots."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An n-gram that occurred in the text before.

    Attributes:
        place: index of the token that followed it.
        length: n.
    """

    place: int
    length: int


class NGramIndex:
    """A text, and for each of its n-grams the position after one of its occurrences.

    An n-gram is added to the index when the next token arrives, so the end of the text never
    matches itself. There is at most one entry for each token and length, so the memory is bounded
    by the length of the text.

    Args:
        lengths: the values of n; a lookup tries the longest first.
        occurrence: `latest` or `first`, the occurrence that is stored; `only` stores n-grams that
            occur once and marks all others as ambiguous.

    Attributes:
        text: all tokens so far.

    Raises:
        OptionError: no length, a length below 1, or an unknown occurrence.
    """

    def __init__(self, lengths: Sequence[int], occurrence: str = "latest") -> None:
        if not lengths or min(lengths) < 1:
            raise OptionError(f"lengths are {list(lengths)}", hint="Give lengths of at least 1")
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
        """Estimated bytes of memory: a list slot and an integer per token, tables by their
        entries."""
        return 40 * len(self.text) + _ENTRY_BYTES * sum(map(len, self.tables.values()))

    def is_like(self, other: "NGramIndex") -> bool:
        """Whether both index the same lengths and store the same occurrence."""
        return (self.lengths, self.occurrence) == (other.lengths, other.occurrence)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text and index the n-grams that now have a follower."""
        if len(tokens) >= _BULK:
            self._extend_at_once(tokens)
        else:
            for token in tokens:
                self._add(token)

    def find(self, tail: Sequence[int] = (), *, behind: int = 1) -> Hit | None:
        """Return the longest n-gram at the end of `text + tail` that is in the index.

        The tail itself is not indexed. With occurrence `only`, an ambiguous n-gram is not a hit. An
        n-gram followed by fewer than `behind` tokens of the text is never a hit.
        """
        text = self.text
        recent = text if not len(tail) else [*text[-self.lengths[0] :], *tail]
        for n in self.lengths:
            place = self._place(recent, n, hashed=not len(tail))
            if place is not None and 0 <= place <= len(text) - behind:
                return Hit(place, n)
        return None

    def unique(self, recent: Sequence[int]) -> int | None:
        """Return the position after the shortest suffix of `recent` that occurs exactly once.

        The suffix is extended while it is ambiguous. The result is None if it does not occur, or if
        it is still ambiguous at the longest length (the walk of Aggressive Decoding).
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
        """Index the n-grams that end before `token`, then update the rolling hashes."""
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
        """Same as `_add` for each token. Only n-grams that reach past the old end are new."""
        begin = len(self.text)
        self.text.extend(tokens)
        start = max(begin - self.lengths[0], 0)
        window = np.array(self.text[start:], dtype=np.uint64)
        for n in self.lengths:
            if len(self.text) < n:
                self._hashes[n] = hash_of(self.text)
                continue
            first = max(begin, n)  # the first position with a new n-gram
            codes = hashes_of(window[first - n - start :], n)
            self._hashes[n] = int(codes[-1])
            self._merge(n, codes[:-1], first)

    def _merge(self, n: int, codes: NDArray[np.uint64], first: int) -> None:
        """Add n-grams by their hashes; the follower of the first one is at `first`."""
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
    """Return the polynomial hash of a few tokens, modulo 2^64."""
    code = 0
    for token in tokens:
        code = code * _BASE + token + 1
    return code & _MASK


def hashes_of(tokens: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Return the hashes of all n-grams of `tokens` (at least n of them), in order."""
    count = len(tokens) - n + 1
    codes = np.zeros(count, dtype=np.uint64)
    for offset in range(n):
        codes *= np.uint64(_BASE)
        codes += tokens[offset : offset + count] + np.uint64(1)
    return codes
