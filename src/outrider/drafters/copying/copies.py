"""Shared by drafters that copy text: the protocol methods, and the conversion of a copy to a
draft."""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import Generic, TypeVar

from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.tree import chain_parents
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified, as_ids
from outrider.protocols import Needs, Request

State = TypeVar("State")
Same = TypeVar("Same")


class Copier(Generic[State]):
    """A drafter that calls no model, handles requests one at a time, and learns nothing from rows.

    A subclass implements `_begin`, `_draft` and `_commit` for one request. The draft distributions
    are point masses, so rules that need distributions can judge the drafts. There are no
    references.
    """

    __slots__ = ()

    name: str
    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    """The distribution of a deterministic choice is a point mass; no model supplies a reference."""
    learns = False

    @abstractmethod
    def _begin(self, request: Request, old: State | None) -> State:
        """Create the state of a request; `old`, of an earlier turn, may be reused."""

    @abstractmethod
    def _draft(self, state: State, tail: IntArray, budget: Budget) -> Draft:
        """Return a draft of depth 1 or more, or an empty draft."""

    @abstractmethod
    def _commit(self, state: State, tokens: list[int]) -> None:
        """Add committed tokens to the state."""

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self: Same, needs: Needs, tier: int) -> Same:
        """Return the drafter unchanged: distributions are point masses; references are not
        available."""
        return self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[State | None] | None = None
    ) -> list[State]:
        """Read each prompt; the part that `previous` shares with it is not read again."""
        old = previous or [None] * len(requests)
        return [self._begin(*pair) for pair in zip(requests, old, strict=True)]

    def propose(
        self, states: Sequence[State], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one draft per request; it is empty if no match is found."""
        return [
            self._draft(state, tail, budget) if budget.depth > 0 else EMPTY_DRAFT
            for state, tail, budget in zip(states, tails, budgets, strict=True)
        ]

    def observe(self, states: Sequence[State], verified: Sequence[Verified]) -> None:
        """Do nothing: rejected tokens are not part of the text."""

    def commit(self, states: Sequence[State], tokens: Sequence[IntArray]) -> None:
        """Add the committed tokens to the state of each request."""
        for state, emitted in zip(states, tokens, strict=True):
            self._commit(state, emitted.tolist())

    def counters(self, state: State) -> dict[str, Counters]:
        """Empty: no model is called, and the verifying tier counts the drafts."""
        return {}


def goes_on(prompt: Sequence[int], text: list[int]) -> bool:
    """Whether `prompt` begins with all of `text`, so that the state learned from it remains
    valid."""
    return list(prompt[: len(text)]) == text


def copied(
    text: list[int], tail: Sequence[int], place: int, size: int, *, repeat: bool = True
) -> list[int]:
    """Copy `size` tokens of `text + tail` from `place`; past the end, the copy continues with
    itself.

    Args:
        text: the committed text, which contains `place`.
        tail: the tokens that follow `text`.
        place: index of the first token.
        size: number of tokens to copy.
        repeat: whether to continue past the end; otherwise the copy may be shorter.
    """
    if size < 1:
        return []
    copy = text[place : place + size]
    if len(copy) < size and len(tail):
        copy += list(tail[: size - len(copy)])
    period = len(copy)
    while repeat and len(copy) < size:
        copy.append(copy[len(copy) - period])
    return copy


def chain(
    tokens: list[int],
    ends: frozenset[int],
    source: str,
    *,
    origin: str,
    match: int = 0,
    score: float | None = None,
) -> Draft:
    """Return a chain draft of these tokens; it is cut after the first end token."""
    if not ends.isdisjoint(tokens):
        tokens = tokens[: 1 + next(i for i, t in enumerate(tokens) if t in ends)]
    size = len(tokens)
    if not size:
        return EMPTY_DRAFT
    return Draft(
        tokens=as_ids(tokens),
        parents=chain_parents(size),
        sources=(source,) * size,
        origin=origin,
        match=match,
        score=score,
    )


def level(match: int, levels: tuple[int, ...]) -> int:
    """Return the highest of the ascending `levels` that `match` reaches; 0 below the lowest."""
    reached = bisect_right(levels, match)
    return levels[reached - 1] if reached else 0


def check_levels(levels: tuple[int, ...]) -> None:
    """Raise `OptionError` unless the levels are ascending and at least 1."""
    if not levels or levels[0] < 1 or list(levels) != sorted(set(levels)):
        raise OptionError(f"levels are {levels}", hint="Give ascending match lengths of at least 1")


def origin_of(name: str, match: int) -> str:
    """Return the origin of drafts after a match of this length."""
    return f"{name}{match}"
