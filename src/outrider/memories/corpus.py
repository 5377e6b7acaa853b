"""A corpus as a suffix array: tokens and their sorted suffixes, so binary search finds any n-gram.

The datastore of REST (arXiv 2311.08252), with ids of 32 bits instead of 16. Both arrays are
memory-mapped, and a lookup reads only a few dozen entries of each.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import OptionError, StoreError
from outrider.memories.store import (
    SEPARATOR,
    Arrays,
    Document,
    StorePage,
    check_together,
    open_store,
    write_store,
)

KIND = "rest"
_ARRAYS = {"tokens": "int32", "order": "int32"}
SORTED_DEPTH = 32
"""Number of tokens by which suffixes are sorted: the longest query plus its continuation."""

MAX_TOKENS = (1 << 31) - 1
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Match:
    """The end of a text, found in the corpus.

    Attributes:
        length: number of matching tokens.
        begin: index of the first matching suffix in `order`.
        end: index after the last one.
    """

    length: int
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin


class Corpus:
    """Documents, and the positions of all their tokens, sorted by the suffixes that begin there.

    Args:
        arrays: `tokens [tokens + documents]` with a separator after each document, and `order
            [tokens]`; both of 32-bit integers.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = {name: np.ascontiguousarray(arrays[name]) for name in _ARRAYS}
        self._tokens = memoryview(self.arrays["tokens"])  # pyright: ignore[reportArgumentType]
        self._order = memoryview(self.arrays["order"])  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return len(self._order)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; of memory-mapped arrays, only the parts that were read use
        memory."""
        return sum(array.nbytes for array in self.arrays.values())

    # -- queries ----------------------------------------------------------------------------

    def find(self, gram: Sequence[int]) -> Match:
        """Return all positions of `gram`, of 1 to `SORTED_DEPTH` tokens; an empty match if it does
        not occur.
        """
        wanted, places = list(gram), range(len(self))
        key = self._key(len(wanted))
        begin = bisect_left(places, wanted, key=key)
        if begin == len(places) or key(begin) != wanted:
            return Match(len(wanted), begin, begin)
        return Match(len(wanted), begin, bisect_right(places, wanted, lo=begin, key=key))

    def longest(self, recent: Sequence[int], *, most: int = 16, least: int = 2) -> Match | None:
        """Return the longest suffix of `recent`, of `least` to `most` tokens, that occurs in the
        corpus.

        The published code tries 16, 15, ... 2 in turn. If a suffix occurs, all shorter ones occur
        as well, so binary search over the length finds the longest.
        """
        low, high, found = least, min(most, len(recent)), None
        while low <= high:
            length = (low + high) // 2
            match = self.find(recent[len(recent) - length :])
            if len(match):
                found, low = match, length + 1
            else:
                high = length - 1
        return found

    def continuations(self, match: Match, *, most: int, size: int) -> NDArray[np.int32]:
        """Return the continuations at up to `most` positions of a match, sorted.

        If there are more positions, they are sampled evenly, so that no continuation is preferred.

        Returns:
            `[places, size]` tokens, with a separator at the end of a document; entries after it are
                arbitrary.
        """
        count = min(len(match), most)
        chosen = match.begin + np.arange(count) * len(match) // max(count, 1)
        places = self.arrays["order"][chosen].astype(np.int64) + match.length
        reach = places[:, None] + np.arange(size)
        return self.arrays["tokens"][np.minimum(reach, len(self._tokens) - 1)]

    def _key(self, length: int) -> Callable[[int], list[int]]:
        tokens, order = self._tokens, self._order

        def gram(rank: int) -> list[int]:
            place = order[rank]
            return tokens[place : place + length].tolist()

        return gram

    # -- construction -----------------------------------------------------------------------

    @classmethod
    def build(cls, documents: Iterable[Document], *, progress: Progress | None = None) -> "Corpus":
        """Sort the suffixes of `documents`; needs about 80 bytes of memory per token while it runs.

        Args:
            documents: token ids of each.
            progress: called with `(rounds done, rounds)` of the sorting.

        Raises:
            StoreError: there is no token, or more than 2^31.
            OptionError: a negative id.
        """
        pieces = [np.append(np.asarray(d, dtype=np.int32), SEPARATOR) for d in documents]
        pieces = [piece.astype(np.int32, copy=False) for piece in pieces]
        tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)
        separators = len(pieces)
        if len(tokens) == separators:
            raise StoreError("the corpus holds no token", hint="Give files with text in them")
        if len(tokens) > MAX_TOKENS:
            raise StoreError(
                f"the corpus has {len(tokens)} tokens", hint=f"At most {MAX_TOKENS} can be indexed"
            )
        if int((tokens < 0).sum()) != separators:
            raise OptionError("token ids of the corpus are negative", hint="Give ids of at least 0")
        order = sorted_suffixes(tokens, progress=progress)
        return cls({"tokens": tokens, "order": order[separators:].astype(np.int32)})

    def write(self, path: Path, page: StorePage, *, force: bool = False) -> None:
        """Write the corpus as a store; see `write_store`."""
        write_store(path, page, self.arrays, force=force)

    @classmethod
    def open(cls, path: Path, *, fingerprint: str | None = None) -> "Corpus":
        """Map the store at `path` into memory; `open_store` lists the errors."""
        _, arrays = open_store(path, KIND, _ARRAYS, fingerprint=fingerprint)
        tokens, order = arrays["tokens"], arrays["order"]
        check_together(path, 0 < len(order) < len(tokens) and int(tokens[-1]) == SEPARATOR)
        return cls(arrays)


def sorted_suffixes(
    tokens: NDArray[np.int32], depth: int = SORTED_DEPTH, progress: Progress | None = None
) -> NDArray[np.int64]:
    """Return the positions sorted by the `depth` tokens that begin there; ties are sorted by
    position.

    Prefix doubling: ranks by k tokens give ranks by 2k, since the tokens after the first k have a
    rank of their own.
    """
    size, reach = len(tokens), 1
    rounds = max(depth - 1, 0).bit_length() + 1
    ranks, order = _ranked(tokens.astype(np.int64))
    for done in range(1, rounds + 1):
        if progress is not None:
            progress(done, rounds)
        if reach >= depth or done == rounds:
            break
        following = np.zeros(size, dtype=np.int64)  # positions after the end sort first
        following[: max(size - reach, 0)] = ranks[reach:] + 1
        ranks, order = _ranked(ranks * (size + 1) + following)
        reach *= 2
    return order


def _ranked(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rank of each key, with equal ranks for equal keys, and the sorted order of the
    keys.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ranks = np.empty_like(keys)
    ranks[order] = np.concatenate(([0], np.cumsum(ordered[1:] != ordered[:-1])))
    return ranks, order
