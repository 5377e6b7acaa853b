"""Caches that read another cache's rows by reference and keep only speculative rows of their own.

A model that drafts with a part of its own layers needs no cache: up to the end of the text its
keys and values are those of the whole model, and while the whole model has read nothing since the
last commit, the slots behind them are free. Draft rows go there, and the verification, which reads
the same tokens at the same places with all layers, writes over them.
"""

from collections.abc import Sequence
from typing import NoReturn, cast

from outrider.core.errors import StrategyError
from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import CacheBook, Feed
from outrider.models.caches.kv_cache import CacheLayout, DecoderCache, Storage
from outrider.protocols import Segment


def not_lent(name: str) -> StrategyError:
    """The error for a cache that model `name` has not filled."""
    return StrategyError(
        f"{name} is to draft with its own layers on a cache that it has not filled",
        hint="Draft with the layers of the very model that is the target",
    )


class Borrowed(CacheBook):
    """The books of a borrowed cache: text and committed rows are the owner's, at any time.

    Its own rows are forgotten as soon as the owner commits, is cut or goes on to the next turn,
    and when another borrower has written to the same slots. It can not be forked or cut: that is
    for the owner.
    """

    def __init__(self, owner: CacheBook) -> None:
        CacheBook.__init__(self, owner.context_length)
        self._owner = owner
        self._mark = object()
        self._follow()

    @property
    def lender(self) -> CacheBook:
        """The cache whose rows it reads."""
        return self._owner

    def _follow(self) -> None:
        """Look up where the owner stands; what was read before it moved on is gone."""
        owner = self._owner
        self._text, self._length = owner._text, owner._length
        self.places, self.embeddings = owner.places, owner.embeddings
        if self._fed and owner.borrower is not self._mark:
            self._forget_round()

    @property
    def text(self) -> Sequence[int]:
        """The owner's text."""
        self._follow()
        return self._text

    @property
    def pending(self) -> Sequence[int]:
        """The owner's pending tokens."""
        self._follow()
        return super().pending

    @property
    def length(self) -> int:
        """The owner's committed rows."""
        self._follow()
        return self._length

    @property
    def room(self) -> int:
        """Tokens that may still follow the text."""
        self._follow()
        return super().room

    @property
    def horizon(self) -> int | None:
        """The owner's."""
        return self._owner.horizon

    @property
    def fed(self) -> bool:
        """Whether `pending` has been read since the owner's last commit."""
        self._follow()
        return self._fed

    @property
    def num_speculative(self) -> int:
        """Speculative rows since the owner's last commit."""
        self._follow()
        return len(self._tokens)

    def match_prefix(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Rows that spell the longest proper prefix of `tokens`."""
        self._follow()
        return super().match_prefix(tokens)

    def feed(self, segment: Segment, want: IntArray) -> Feed:
        """Plan a forward over `segment`.

        Raises:
            ContextError: a row would lie outside the window.
            RuntimeError: the owner holds speculative rows of its own, which this would destroy.
        """
        if self._owner._fed:
            raise RuntimeError("the cache lent out has rows that are not committed yet")
        self._follow()
        plan = super().feed(segment, want)
        self._owner.borrower = self._mark
        return plan

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Forget the round: what is committed, the owner has."""
        self._forget_round()
        self._follow()

    def truncate(self, length: int) -> None:
        """Refused: only the owner's text can be cut."""
        raise RuntimeError("a borrowed cache has no text of its own; cut the owner's")

    def check_own(self) -> NoReturn:
        """Refused: only the owner's text can be rearranged."""
        raise RuntimeError("a borrowed cache has no text of its own; rearrange the owner's")

    def fork(self) -> NoReturn:
        """Refused: a copy would write to the same slots."""
        raise RuntimeError("a borrowed cache can not be forked; fork its owner, and borrow again")


class BorrowedCache(Borrowed, DecoderCache):
    """Borrowed from a `DecoderCache`: draft rows lie in the owner's storage."""

    def __init__(self, owner: DecoderCache) -> None:
        self.layout: CacheLayout = owner.layout
        Borrowed.__init__(self, owner)

    @property
    def storage(self) -> Storage:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The owner's, whichever that is at the moment."""
        return cast(DecoderCache, self._owner).storage

    def reserve(self, start: int, end: int) -> None:
        """Let the owner make room, and a copy of what it shares with others."""
        cast(DecoderCache, self._owner).reserve(start, end)
