"""The token that mostly followed the last n tokens, one for each context, with its votes.

A context keeps one follower, chosen by majority vote (Boyer and Moore 1981): the same follower
again adds a vote, another one takes a vote away, and replaces the follower when none is left. On
answers of a chat model this predicted almost as well as counts of all followers, in a small part of
their memory.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from outrider.core.checks import AT_LEAST_ONE

_MOST_COUNTED = 255
_FOLLOWER, _VOTES = 16, 8
"""Bits: a context is stored as one integer, `follower << 16 | votes << 8 | total`."""

VOTES = (1, 2, 3, 4, 8)
"""Votes from which a prediction belongs to the next class."""
SHARES = (0.0, 0.15, 0.4, 1.0)
"""Votes divided by occurrences from which a prediction belongs to the next class."""


class Followed(NamedTuple):
    """A prediction.

    Attributes:
        token: the follower.
        length: tokens of the context.
        votes: index in `VOTES`.
        share: index in `SHARES`.
    """

    token: int
    length: int
    votes: int
    share: int


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

    def learn(self, text: Sequence[int], start: int) -> None:
        """Count each token of `text` from index `start` on as a follower of the tokens before."""
        for i in range(max(start, 1), len(text)):
            token = text[i]
            for length, new in enumerate(self._new[:i], start=1):
                key = text[i - 1] if length == 1 else tuple(text[i - length : i])
                entry = new.get(key)
                if entry is None:
                    entry = self._old[length - 1].pop(key, 0)
                    if len(new) >= self.most // 2:
                        self._old[length - 1], new = new, {}
                        self._new[length - 1] = new
                new[key] = _voted(entry, token)

    def find(self, tail: Sequence[int]) -> Iterator[Followed]:
        """Yield the predictions after `tail`, those of longer contexts first."""
        for length in range(min(self.longest, len(tail)), 0, -1):
            key = tail[-1] if length == 1 else tuple(tail[-length:])
            entry = self._new[length - 1].get(key) or self._old[length - 1].get(key)
            if entry:
                votes, total = entry >> _VOTES & 255, entry & 255
                yield Followed(entry >> _FOLLOWER, length, _vote_class(votes), _share(votes, total))


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


def _vote_class(votes: int) -> int:
    return votes - 1 if votes < 4 else 3 + (votes >= VOTES[4])


def _share(votes: int, total: int) -> int:
    share = votes / total
    return (share >= SHARES[1]) + (share >= SHARES[2]) + (share >= SHARES[3])
