"""What the passages of earlier searches have shown about drafts, by kind of passage.

A search is short: of 64 tokens, neither the policy nor the guard learns whether drafts pay. So
their state is kept between the searches of one strategy: greedy passages gain what sampled ones
lose, and a drafted row costs more beside several texts. It decides what is drafted, never a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from outrider.decoding import Generation, Learned
from outrider.policies.guard import Guard
from outrider.policies.guard.guard import bucket


@dataclass(frozen=True, slots=True)
class Kind:
    """What passages of one call have in common.

    Attributes:
        sampled: whether their tokens are sampled.
        rows: size of the group of their number: 1, 2-3, 4-7, ...
    """

    sampled: bool
    rows: int

    @classmethod
    def of(cls, sampled: bool, passages: int) -> "Kind":
        """Return the kind of so many passages that are written together."""
        return cls(sampled, bucket(passages))


@dataclass(slots=True, kw_only=True)
class Records:
    """The state of drafting of one strategy.

    Attributes:
        make_guard: returns a new guard; None: there is none.
    """

    make_guard: Callable[[], Guard | None] = lambda: None
    _guards: dict[bool, Guard | None] = field(default_factory=dict[bool, Guard | None])
    _learned: dict[Kind, Learned] = field(default_factory=dict[Kind, Learned])

    def guard(self, kind: Kind) -> Guard | None:
        """Return the guard of passages of this kind; it tells their numbers apart itself."""
        if kind.sampled not in self._guards:
            self._guards[kind.sampled] = self.make_guard()
        return self._guards[kind.sampled]

    def before(self, kind: Kind) -> Learned | None:
        """Return what the last passages of this kind have shown; None before the first ones."""
        return self._learned.get(kind)

    def note(self, kind: Kind, written: Sequence[Generation]) -> None:
        """Keep what the longest of these passages has shown."""
        longest = max(written, key=lambda one: one.counters.rounds, default=None)
        if longest is not None and longest.counters.rounds:
            self._learned[kind] = Learned(longest.counters)
