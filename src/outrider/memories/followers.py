"""The token that mostly followed the last n tokens, one for each context, with its votes.

A context keeps one follower, chosen by majority vote (Boyer and Moore 1981): the same follower
again adds a vote, another one takes a vote away, and replaces the follower when none is left. On
answers of a chat model this predicted almost as well as counts of all followers, in a small part of
their memory.
"""

from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from outrider.core.checks import AT_LEAST_ONE
from outrider.core.errors import CheckpointError

_MOST_COUNTED = 255
_FOLLOWER, _VOTES = 16, 8
"""Bits: a context is stored as one integer, `follower << 16 | votes << 8 | total`."""

VOTES = (1, 2, 3, 4, 8)
"""Votes from which a prediction belongs to the next class."""
SHARES = (0.0, 0.15, 0.4, 1.0)
"""Votes divided by occurrences from which a prediction belongs to the next class."""


CLASSES = len(VOTES) * len(SHARES)
"""Number of kinds for each length of the context."""


def kind_of(length: int, votes: int, share: float) -> int:
    """Return the kind of a prediction: of `length` tokens, with these votes and this share."""
    by_votes = bisect_right(VOTES, votes) - 1
    return (length - 1) * CLASSES + by_votes * len(SHARES) + bisect_right(SHARES, share) - 1


_CLASS_OF = bytes(
    kind_of(1, max(votes, 1), votes / max(total, 1)) for votes in range(256) for total in range(256)
)
"""The class of each pair of votes and occurrences."""


Prediction = tuple[int, int]
"""A token, and the kind of its prediction: `kind_of` of its context and its counts."""


def contexts(text: Sequence[int], longest: int) -> list[Hashable]:
    """Return the keys of the contexts at the end of `text`: its last token, its last two tokens,
    and so on up to `longest`.
    """
    tail = tuple(text[-longest:])
    keys: list[Hashable] = [tail[-length:] for length in range(1, len(tail) + 1)]
    if keys:
        keys[0] = tail[-1]
    return keys


@dataclass(slots=True)
class Followers:
    """Contexts of 1 to `longest` tokens and their followers.

    Attributes:
        longest: tokens of the longest context.
        most: number of contexts of each length after which the older half is forgotten.

    Raises:
        OptionError: a number below 1.
    """

    longest: int = 4
    most: int = 1 << 16
    _new: list[dict[Hashable, int]] = field(init=False, repr=False)
    _old: list[dict[Hashable, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("longest", self.longest)
        AT_LEAST_ONE.check("most", self.most)
        self._new = [{} for _ in range(self.longest)]
        self._old = [{} for _ in range(self.longest)]

    def __len__(self) -> int:
        return sum(map(len, (*self._new, *self._old)))

    def copy(self) -> "Followers":
        """Return a memory that holds the same and learns apart."""
        other = Followers(self.longest, self.most)
        other._new = [dict(part) for part in self._new]
        other._old = [dict(part) for part in self._old]
        return other

    def saved(self, least: int) -> dict[str, NDArray[np.integer]]:
        """Return the contexts that occurred at least `least` times, for a file.

        `contexts.N` holds the tokens of contexts of N tokens, `[number, N]`, and `entries.N` the
        follower, its votes and occurrences of each.
        """
        found: dict[str, NDArray[np.integer]] = {}
        for length, (new, old) in enumerate(zip(self._new, self._old, strict=True), start=1):
            kept = [
                (k, e) for part in (old, new) for k, e in part.items() if e & _MOST_COUNTED >= least
            ]
            keys = np.array([key for key, _ in kept], dtype=np.int32).reshape(-1, length)
            found[f"contexts.{length}"] = keys
            found[f"entries.{length}"] = np.array([entry for _, entry in kept], dtype=np.int64)
        return found

    def restore(self, saved: Mapping[str, NDArray[np.integer]], vocab: int) -> None:
        """Add contexts of `saved`; longer ones than this memory has are left out.

        Args:
            saved: arrays of `saved`.
            vocab: number of tokens; ids must be below.

        Raises:
            CheckpointError: arrays that `saved` does not return.
        """
        for length, new in enumerate(self._new, start=1):
            keys, entries = saved.get(f"contexts.{length}"), saved.get(f"entries.{length}")
            if keys is None or entries is None:
                continue
            fits = entries.ndim == 1 and keys.shape == (len(entries), length)
            fits = fits and keys.dtype.kind == entries.dtype.kind == "i"
            if not fits or _beyond(keys, vocab) or _beyond(entries >> _FOLLOWER, vocab):
                raise CheckpointError(
                    f"a memory of followers holds damaged contexts of {length} tokens",
                    hint="Write it again, or download it again",
                )
            named = keys[:, 0].tolist() if length == 1 else map(tuple, keys.tolist())
            new.update(zip(named, entries.tolist(), strict=True))

    def learn(self, text: Sequence[int], start: int) -> None:
        """Count each token of `text` from index `start` on as a follower of the tokens before."""
        for i in range(max(start, 1), len(text)):
            self.count(contexts(text[max(i - self.longest, 0) : i], self.longest), text[i])

    def count(self, places: Sequence[Hashable], token: int) -> None:
        """Count `token` as the follower of these `contexts`."""
        for length, (new, key) in enumerate(zip(self._new, places, strict=False)):
            entry = new.get(key)
            if entry is None:
                entry = self._old[length].pop(key, 0)
                if len(new) >= self.most // 2:
                    self._old[length], new = new, {}
                    self._new[length] = new
            new[key] = _voted(entry, token)

    def find(self, places: Sequence[Hashable]) -> list[Prediction]:
        """Return the predictions after these `contexts`, those of longer contexts first.

        Where a context is not known, the longer ones, which occurred less often, are not either.
        """
        found: list[Prediction] = []
        first = 0
        for new, old, key in zip(self._new, self._old, places, strict=False):
            entry = new.get(key) or old.get(key)
            if not entry:
                break
            found.append((entry >> _FOLLOWER, first + _CLASS_OF[entry & 0xFFFF]))
            first += CLASSES
        found.reverse()
        return found


def _beyond(ids: NDArray[np.integer], vocab: int) -> bool:
    """Whether any id is no token."""
    return bool(len(ids)) and not (ids.min() >= 0 and ids.max() < vocab)


def _voted(entry: int, token: int) -> int:
    """Return the entry after `token` occurred once more; 0 is an unknown context."""
    follower, votes, total = entry >> _FOLLOWER, entry >> _VOTES & 255, entry & 255
    if total == _MOST_COUNTED:
        votes, total = (votes + 1) // 2, (total + 1) // 2
    if not total:
        follower, votes = token, 0
    elif follower != token:
        votes -= 2
        if votes < 0:
            follower, votes = token, 0
    return follower << _FOLLOWER | (votes + 1) << _VOTES | (total + 1)
