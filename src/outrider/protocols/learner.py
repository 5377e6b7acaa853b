"""The contract of learners: they improve a drafter from the texts that the target writes."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from outrider.core.types import Verified
from outrider.protocols.request import Request


@runtime_checkable
class Learner(Protocol):
    """Learns from the rounds of the outermost stage. The loop and the engines know only this
    contract.

    With a rule that keeps the text, whatever a learner does to a drafter changes the speed only. A
    drafter changes in `swap` alone, which is called between two rounds, so that each draft is
    verified with the probabilities with which it was drawn.
    """

    @property
    def counts(self) -> Mapping[str, int]:
        """Counters that only grow, such as `updates`."""
        ...

    def swap(self) -> None:
        """Put what was learned into use. Called before each round."""
        ...

    def observe(self, requests: Sequence[Request], verified: Sequence[Verified]) -> None:
        """Take up the verifications of one round; `output` does not contain its tokens yet.

        Called within a round, so that it must return at once.
        """
        ...

    def note(self, request: Request) -> None:
        """Take up a finished request: its prompt, and the answer that the target wrote.

        Called between two rounds, so that it must return at once.
        """
        ...

    def work(self, seconds: float) -> bool:
        """Learn for about `seconds`, between two rounds; return whether there is more to do."""
        ...

    def close(self) -> None:
        """Stop learning, and store what was learned where this was asked for."""
        ...
