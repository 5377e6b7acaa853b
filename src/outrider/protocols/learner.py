"""The contract of learners: they improve a drafter from the texts that a server writes."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Learner(Protocol):
    """Learns between the rounds of a server. The engine that serves knows only this contract; the
    command line passes a trainer in.

    With a rule that keeps the text, whatever a learner does to a drafter changes the speed only.
    """

    def note(self, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Take up a finished text: the ids of its prompt, and of the answer that the target wrote.

        Called between two rounds, so that it must return at once.
        """
        ...

    def work(self, seconds: float) -> bool:
        """Learn for about `seconds`, between two rounds; return whether there is more to do."""
        ...
