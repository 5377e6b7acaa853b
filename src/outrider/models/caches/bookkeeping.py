"""Bookkeeping shared by all caches: which rows exist, which tokens are pending, what a commit
keeps. Runners add the tensors.

Three numbers are distinct: a row's *position* (its place in the text, for rotary embeddings), its
*slot* (where its keys and values lie) and the committed *length*. Slots have no gaps; positions can
have some (`Prompt.positions`); both ascend. Only image tokens share positions (`Prompt.axes`).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from torch import Tensor

from outrider.core.errors import ContextError
from outrider.core.tree import (
    chain_parents,
    check_parents,
    depths,
    is_chain,
    matched,
    visible_rows,
)
from outrider.core.types import BoolArray, IntArray, as_ids
from outrider.models.caches.positions import Places
from outrider.protocols import CacheReport, Segment

C = TypeVar("C", bound="CacheBook")


@dataclass(frozen=True, slots=True)
class Feed:
    """The input of one forward for one cache.

    Attributes:
        tokens: `[n]` ids to read: unread pending tokens, then those of the segment.
        positions: `[n]` places in the text; the largest place of a token that has several.
        start: slot of the first token; the others follow.
        base: slots before `base` are visible to every speculative row.
        tree: `[n, start + n - base]` for each row, the visible slots from `base` on; None: all
            up to its own (causal attention).
        take: rows of the feed to return, in the order wanted.
        embeddings: `[n, hidden]` to read instead of the ids, or None.
        axes: `[3, n]` the places of each token in time, height and width; None: its position.
        prompts: `[prompts, hidden]` what negative ids are read as (`Segment.prompts`), or None.
    """

    tokens: IntArray
    positions: IntArray
    start: int
    base: int
    tree: BoolArray | None
    take: IntArray
    embeddings: Tensor | None = None
    axes: IntArray | None = None
    prompts: Tensor | None = None

    @property
    def end(self) -> int:
        """First slot after the feed."""
        return self.start + len(self.tokens)


class CacheBook:
    """A `Cache` without tensors. Subclasses move and copy storage.

    Slots: committed rows lie at `0 .. length`; fed pending rows follow up to `len(text)`; then come
    the speculative rows in the order they were fed.

    `places`: positions of the tokens. `watched`: layers of `Rows.states`. `borrower`: the mark of
    the `Borrowed` cache whose rows follow the committed ones; None after the next change of
    this cache. `sound`: how many rows equal those of a fresh prefill of the ids; None means all.
    `version`: the version of the weights that computed the rows (`renew`).
    """

    version = 0

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        self._text: list[int] = []
        self._length = 0
        self._fed = False
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._is_chain = True
        self.places = Places()
        self.embeddings: Tensor | None = None
        self.sound: int | None = None
        self.watched: tuple[int, ...] | None = None
        self.report = CacheReport()
        self.borrower: object | None = None

    # -- attributes of the protocol ---------------------------------------------------------

    @property
    def text(self) -> Sequence[int]:
        """Prompt and committed output."""
        return self._text

    @property
    def pending(self) -> Sequence[int]:
        """Tokens of the text without a committed row."""
        return self._text[self._length :]

    @property
    def length(self) -> int:
        """Number of committed rows."""
        return self._length

    @property
    def fed(self) -> bool:
        """Whether `pending` has been read since the last commit."""
        return self._fed

    @property
    def num_speculative(self) -> int:
        """Speculative rows since the last commit."""
        return len(self._tokens)

    @property
    def remaining(self) -> int:
        """Tokens that may still follow the text."""
        return self.context_length - self.places.at(len(self._text)) - self.places.lag

    @property
    def reusable(self) -> bool:
        """Whether a later text may reuse all rows."""
        return self.sound is None

    @property
    def horizon(self) -> int | None:
        """None: the model of this cache never changes."""
        return None

    def usable(self, shared: int) -> int:
        """Return how many tokens of a text need not be read again if its first `shared` tokens are
        those of this cache."""
        return shared if self.sound is None else min(shared, self.sound)

    def match_prefix(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Return the rows that match the longest proper prefix of `tokens`."""
        return matched(self._tokens, self._parents, tokens[:-1])

    # -- operations of a round --------------------------------------------------------------

    def feed(self, segment: Segment, want: IntArray) -> Feed:
        """Plan a forward over `segment` and count its rows as read.

        Raises `ContextError`, without changes, if a row would lie outside the window.
        """
        if segment.parents is None and self._is_chain and not segment.both:
            return self._feed_chain(segment, want)
        text_end, old = len(self._text), len(self._tokens)
        unread = [] if self._fed else self._text[self._length :]
        new = [int(t) for t in segment.tokens]
        parents = segment.parents
        if parents is None:
            parents = chain_parents(len(new)) + old
            parents[:1] = old - 1
        check_parents(parents, first=old)
        tree, first = as_ids([*self._parents, *parents.tolist()]), old - len(unread)
        drafted = depths(tree)[old:] + self.places.at(text_end)
        start = text_end - len(unread)
        positions = np.concatenate((self.places.between(start, text_end), drafted))
        if len(positions):
            self._check_position(int(positions.max()))
        self._is_chain = self._is_chain and is_chain(tree)
        both = old + np.flatnonzero(segment.tokens < 0) if segment.both else None
        plan = Feed(
            tokens=as_ids(unread + new),
            positions=positions,
            start=text_end + old - len(unread),
            base=text_end,
            tree=None if self._is_chain and both is None else visible_rows(tree, first, both),
            take=self._take(want, len(unread), old, len(new)),
            embeddings=self.embeddings if unread else None,
            axes=_with_rows(self.places.spread(start, text_end), drafted),
            prompts=segment.prompts,
        )
        self._tokens += new
        self._parents = tree.tolist()
        self._fed = True
        return plan

    def _feed_chain(self, segment: Segment, want: IntArray) -> Feed:
        """Plan a forward for the common case in which rows, slots and positions ascend together."""
        text_end, old, new = len(self._text), len(self._tokens), segment.tokens
        unread = [] if self._fed else self._text[self._length :]
        start, end = text_end + old - len(unread), text_end + old + len(new)
        if end > start:
            self._check_position(self.places.at(end - 1))
        plan = Feed(
            tokens=np.concatenate((unread, new)) if unread else new,
            positions=self.places.between(start, end),
            start=start,
            base=text_end,
            tree=None,
            take=self._take(want, len(unread), old, len(new)),
            embeddings=self.embeddings if unread else None,
            axes=self.places.spread(start, end),
            prompts=segment.prompts,
        )
        self._tokens += new.tolist()
        self._parents += range(old - 1, old + len(new) - 1)
        self._fed = True
        return plan

    def _check_position(self, last: int) -> None:
        last += self.places.lag  # neither the place nor the slot of a token may exceed the window
        if last >= self.context_length:
            raise ContextError(f"position {last} is outside the context window")

    @staticmethod
    def _take(want: IntArray, unread: int, old: int, new: int) -> IntArray:
        rows = want.tolist()  # few numbers: arrays would take several times as long
        after = unread - old
        take = [(row if not old else -1) + unread if row < 0 else row + after for row in rows]
        if rows and not (
            min(take) >= 0 and max(take) < unread + new and (unread or min(rows) >= 0)
        ):
            raise ValueError(f"rows {rows} are not read by this forward")
        return as_ids(take)

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens; keep the rows that match their longest proper prefix."""
        kept = self.match_prefix(tokens)
        text_end = len(self._text)
        self._text.extend(int(t) for t in tokens)
        if self._fed:
            if (
                kept and kept[-1] != len(kept) - 1
            ):  # rows ascend; if the last one is in place, all are
                self._move([text_end + row for row in kept], text_end)
            self._length = min(text_end + len(kept), len(self._text) - 1)
            self.embeddings = None
        self._forget_round()

    def renew(self, version: int) -> None:
        """Take note that the weights have changed: the next forward reads the whole text again.

        Within a round, and after input embeddings, which are not stored, the old rows stay.
        """
        if self._fed:
            return
        if self.sound is None:
            self._length = 0
            self._forget_round()
        self.version = version

    def truncate(self, length: int) -> None:
        """Drop all but the first `length` tokens of the text, and all speculative rows."""
        if not 1 <= length <= len(self._text):
            raise ValueError(f"length must be from 1 to {len(self._text)}, got {length}")
        self._keep(length, min(self._length, length - 1))

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all speculative rows but `rows`, ascending, whose parents must be among them."""
        number = {-1: -1} | {row: i for i, row in enumerate(rows)}
        parents = [number[self._parents[row]] for row in rows]
        if rows and rows[-1] != len(rows) - 1:
            self._move([len(self._text) + row for row in rows], len(self._text))
        self._tokens, self._parents = [self._tokens[row] for row in rows], parents
        self._is_chain, self.borrower = is_chain(as_ids(parents)), None

    def _forget_round(self) -> None:
        self._fed, self.borrower = False, None
        self._tokens, self._parents, self._is_chain = [], [], True

    def _keep(self, length: int, rows: int) -> None:
        """Keep the first `length` tokens and the first `rows` rows."""
        del self._text[length:]
        self._length = rows
        self.places = self.places.cut(length)
        if self.sound is not None and rows <= self.sound:
            self.sound = None
        self._forget_round()

    def slot_positions(self, end: int) -> IntArray:
        """Return the position of the token in each of the first `end` slots."""
        text = len(self._text)
        speculative = depths(as_ids(self._parents)) + self.places.at(text)
        return np.concatenate((self.places.between(0, text), speculative))[:end]

    @property
    def pending_axes(self) -> IntArray | None:
        """Return `[3, pending]` places of the pending tokens; None if each has one place."""
        return self.places.spread(self._length, len(self._text))

    # -- operations of a prefill ------------------------------------------------------------

    def expect(self, slots: int) -> None:
        """Allocate space for a text of `slots` tokens at once, if storage grows."""

    def extend(
        self,
        tokens: Sequence[int],
        positions: IntArray | None = None,
        embeddings: Tensor | None = None,
    ) -> None:
        """Append tokens as pending.

        Without `positions` (`[n]`, or `[3, n]` for tokens with several places) they continue from
        the last token.
        """
        if positions is not None:
            self.places = self.places.joined(len(self._text), positions)
        self._text.extend(tokens)
        self.embeddings = embeddings
        if embeddings is not None:
            self.sound = 0

    def settle(self) -> None:
        """Count all tokens as committed: the pending ones have been read, and more tokens
        follow.
        """
        self._length = len(self._text)
        self.embeddings = None
        self._forget_round()

    # -- operations of a rearrangement ------------------------------------------------------

    @property
    def num_rows(self) -> int:
        """Number of rows without those of the current round."""
        return len(self._text) - 1 if self._fed else self._length

    def check_own(self) -> None:
        """Raise `RuntimeError` if the text belongs to another cache."""

    def take_apart(self, kept: Sequence["Run"], slots: int) -> None:
        """Keep only the rows of `kept`, moved to their slots in a text of `slots` tokens.

        The text is cut to the part that stays at the front.
        """
        self._lay_out(kept, slots)
        front = kept[0].stop if kept and kept[0].is_front else 0
        self._keep(front, front)

    def resume(self, run: "Run", tokens: Sequence[int], positions: IntArray) -> None:
        """Continue with rows kept by `take_apart`; all rows before them have been read."""
        self._stand(run)
        self.extend(tokens, positions)
        self.settle()

    def fork(self: C) -> C:
        """Return an independent copy that shares storage until one side writes."""
        twin = cast(C, self._share())
        twin._text = list(self._text)
        twin._length, twin._fed = self._length, self._fed
        twin._tokens, twin._parents = list(self._tokens), list(self._parents)
        twin._is_chain = self._is_chain
        twin.places, twin.sound, twin.embeddings = self.places, self.sound, self.embeddings
        twin.version = self.version
        return twin

    # -- storage ----------------------------------------------------------------------------

    @abstractmethod
    def _move(self, slots: list[int], start: int) -> None:
        """Copy the rows at `slots` (ascending) to `start`, `start + 1`, ..."""

    @abstractmethod
    def _lay_out(self, kept: Sequence["Run"], slots: int) -> None:
        """Move the rows of `kept` to their slots, or set them aside; the new text has `slots`
        slots.
        """

    def _stand(self, run: "Run") -> None:
        """Append the rows of `run` to those in place, if they were set aside."""

    @abstractmethod
    def _share(self) -> "CacheBook":
        """Return a cache of the same kind that shares this storage until either one writes."""


@dataclass(frozen=True, slots=True)
class Run:
    """Rows to keep: tokens `start .. stop` of the new text, stored from slot `source` on."""

    start: int
    stop: int
    source: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def is_front(self) -> bool:
        """Whether the run starts the text, both before and after the move."""
        return self.start == self.source == 0


def _with_rows(axes: IntArray | None, positions: IntArray) -> IntArray | None:
    """Append rows that have one place each to `axes`."""
    if axes is None:
        return None
    rows = np.broadcast_to(positions, (len(axes), len(positions)))
    return np.concatenate((axes, rows), axis=1)
