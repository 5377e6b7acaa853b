"""Caches that read the rows of another cache and store only their own speculative rows.

A model that drafts with some of its own layers needs no cache: up to the end of the text its keys
and values equal those of the full model. The slots after the text are free until the full model
reads something after the last commit. Draft rows use these slots. The verification reads the same
tokens at the same places with all layers and overwrites them.
"""

from collections.abc import Sequence
from typing import NoReturn, cast

from outrider.core.errors import StrategyError
from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import CacheBook, Feed
from outrider.models.caches.kv_cache import CacheLayout, DecoderCache, Storage
from outrider.protocols import Segment


def not_lent(name: str) -> StrategyError:
    """Build the error for a cache that model `name` has not filled."""
    return StrategyError(
        f"{name} cannot draft with its layers on a cache that another model has filled",
        hint="Use the target itself as the model of the drafter",
    )


class Borrowed(CacheBook):
    """Bookkeeping of a borrowed cache; text and committed rows are those of the owner.

    Its own rows are dropped when the owner commits, is truncated or starts the next turn, and when
    another borrower writes to the same slots. Only the owner can be forked or truncated.
    """

    def __init__(self, owner: CacheBook) -> None:
        CacheBook.__init__(self, owner.context_length)
        self._owner = owner
        self._mark = object()
        self._follow()

    @property
    def lender(self) -> CacheBook:
        """The cache whose rows are read."""
        return self._owner

    def _follow(self) -> None:
        """Follow the owner's state; drop rows that were read before the owner changed."""
        owner = self._owner
        self._text, self._length = owner._text, owner._length
        self.places, self.embeddings = owner.places, owner.embeddings
        if self._fed and owner.borrower is not self._mark:
            self._forget_round()

    @property
    def text(self) -> Sequence[int]:
        """Text of the owner."""
        self._follow()
        return self._text

    @property
    def pending(self) -> Sequence[int]:
        """Pending tokens of the owner."""
        self._follow()
        return super().pending

    @property
    def length(self) -> int:
        """Number of committed rows of the owner."""
        self._follow()
        return self._length

    @property
    def remaining(self) -> int:
        """Tokens that may still follow the text."""
        self._follow()
        return super().remaining

    @property
    def horizon(self) -> int | None:
        """Horizon of the owner."""
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
        """Return the rows that match the longest proper prefix of `tokens`."""
        self._follow()
        return super().match_prefix(tokens)

    def feed(self, segment: Segment, want: IntArray) -> Feed:
        """Plan a forward over `segment`.

        Raises:
            ContextError: a row would lie outside the window.
            RuntimeError: the owner has speculative rows, which this forward would overwrite.
        """
        if self._owner._fed:
            raise RuntimeError("the owner of the borrowed cache has uncommitted rows")
        self._follow()
        plan = super().feed(segment, want)
        self._owner.borrower = self._mark
        return plan

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Drop the speculative rows; the owner commits the tokens."""
        self._forget_round()
        self._follow()

    def truncate(self, length: int) -> None:
        """Refused: only the owner can truncate its text."""
        raise RuntimeError("a borrowed cache has no text of its own; truncate its owner")

    def check_own(self) -> NoReturn:
        """Refused: only the owner can rearrange its text."""
        raise RuntimeError("a borrowed cache has no text of its own; rearrange its owner")

    def fork(self) -> NoReturn:
        """Refused: a copy would write to the same slots."""
        raise RuntimeError("a borrowed cache cannot be forked; fork its owner, and borrow again")


class BorrowedCache(Borrowed, DecoderCache):
    """A cache borrowed from a `DecoderCache`: draft rows lie in the owner's storage."""

    def __init__(self, owner: DecoderCache) -> None:
        self.layout: CacheLayout = owner.layout
        Borrowed.__init__(self, owner)

    @property
    def storage(self) -> Storage:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The current storage of the owner."""
        return cast(DecoderCache, self._owner).storage

    def reserve(self, start: int, end: int) -> None:
        """Make the owner allocate space and copy storage that it shares with other caches."""
        cast(DecoderCache, self._owner).reserve(start, end)
