"""The contract of policies, which decide how many tokens are drafted."""

from typing import Protocol, runtime_checkable

from outrider.core.counters import Counters
from outrider.core.types import (
    Budget,
)


@runtime_checkable
class DraftPolicy(Protocol):
    """Decides how much to draft. The decision depends on counters of past rounds only, never on
    tokens that are discarded afterwards; otherwise the accepted tokens would be biased."""

    @property
    def adaptive(self) -> bool:
        """Whether the results of earlier drafts change the budget. The combination is an error
        where the budget could depend on tokens that an outer rule discarded and draws again."""
        ...

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """Return the budget for the next round of one request; `batch` is the number of requests in
        the forward.
        """
        ...
