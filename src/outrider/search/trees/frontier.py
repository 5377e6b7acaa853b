"""The queue of best-first search: the best states that wait to be continued."""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

State = TypeVar("State")

Key = tuple[float, ...]
"""What states are ordered by; the smallest comes first. All keys of a queue have one length."""


@dataclass(slots=True)
class Frontier(Generic[State]):
    """States in the order of their keys. Of equal keys, the one that was added first comes first.

    Attributes:
        width: most states that wait; the worst ones beyond are dropped.
    """

    width: int
    _waiting: list[tuple[Key, int, State]] = field(default_factory=list[tuple[Key, int, State]])
    _added: int = 0

    def add(self, state: State, key: Key) -> None:
        """Add a state; drop the worst one if more than `width` wait."""
        insort(self._waiting, (key, self._added, state), key=lambda entry: entry[:2])
        self._added += 1
        del self._waiting[self.width :]

    def take(self) -> State:
        """Remove the best state and return it. Raises `IndexError` if none waits."""
        return self._waiting.pop(0)[2]

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[State]:
        """The states that wait, the best first."""
        return (state for _, _, state in self._waiting)
