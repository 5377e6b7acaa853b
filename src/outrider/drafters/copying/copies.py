"""What drafters that copy text have in common: their verbs, and how a copy becomes a draft."""

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
    """The verbs of a drafter that calls no model: one request at a time, nothing learned from rows.

    A method adds `_begin`, `_draft` and `_commit` for one request. Drafts are point masses: every
    rule that needs distributions can judge them, and nobody has vouched for them.
    """

    __slots__ = ()

    name: str
    draw = Draw.DETERMINISTIC
    gives = Needs(probs=True)
    """A deterministic choice is its own distribution, a point mass; nobody vouched for it."""
    learns = False

    @abstractmethod
    def _begin(self, request: Request, old: State | None) -> State:
        """The state of a request; `old`, of an earlier turn, may be taken over."""

    @abstractmethod
    def _draft(self, state: State, tail: IntArray, budget: Budget) -> Draft:
        """A draft of depth 1 or more, or none."""

    @abstractmethod
    def _commit(self, state: State, tokens: list[int]) -> None:
        """Take note of what has become text."""

    @property
    def origins(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def bind(self: Same, needs: Needs, tier: int) -> Same:
        """Nothing to prepare: distributions are point masses, and there are no references to
        give."""
        return self

    def begin(
        self, requests: Sequence[Request], previous: Sequence[State | None] | None = None
    ) -> list[State]:
        """Read each prompt; what `previous` shares with it is not read again."""
        old = previous or [None] * len(requests)
        return [self._begin(*pair) for pair in zip(requests, old, strict=True)]

    def propose(
        self, states: Sequence[State], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """One draft a request; empty where nothing is found."""
        return [
            self._draft(state, tail, budget) if budget.depth > 0 else EMPTY_DRAFT
            for state, tail, budget in zip(states, tails, budgets, strict=True)
        ]

    def observe(self, states: Sequence[State], verified: Sequence[Verified]) -> None:
        """Refused tokens are not text."""

    def commit(self, states: Sequence[State], tokens: Sequence[IntArray]) -> None:
        """Learn what has become text."""
        for state, emitted in zip(states, tokens, strict=True):
            self._commit(state, emitted.tolist())

    def counters(self, state: State) -> dict[str, Counters]:
        """No model is called: what it drafts is counted by the tier that verifies it."""
        return {}


def goes_on(prompt: Sequence[int], text: list[int]) -> bool:
    """Whether `prompt` begins with all of `text`, so that what was learned from it still holds."""
    return list(prompt[: len(text)]) == text


def copied(
    text: list[int], tail: Sequence[int], place: int, size: int, *, repeat: bool = True
) -> list[int]:
    """`size` tokens of `text + tail` from `place` on; past the end the copy copies itself.

    Args:
        text: what is committed; `place` lies in it.
        tail: what follows it.
        place: index of the first token.
        size: tokens wanted.
        repeat: whether to go on past the end; else the copy may be shorter.
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
    """The draft that proposes these tokens one after the other; none follows an end token."""
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
    """The highest of the rising `levels` that `match` reaches; 0 below the lowest."""
    reached = bisect_right(levels, match)
    return levels[reached - 1] if reached else 0


def check_levels(levels: tuple[int, ...]) -> None:
    """Raise `OptionError` unless they rise from 1 or more."""
    if not levels or levels[0] < 1 or list(levels) != sorted(set(levels)):
        raise OptionError(f"levels are {levels}", hint="Give lengths of matches that rise from 1")


def origin_of(name: str, match: int) -> str:
    """What drafts after a match of this length are booked under."""
    return f"{name}{match}"
