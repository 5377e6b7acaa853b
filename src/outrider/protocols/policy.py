"""Policies that decide how much is drafted."""

from typing import Protocol, runtime_checkable

from outrider.core.counters import Counters
from outrider.core.types import (
    Budget,
)


@runtime_checkable
class DraftPolicy(Protocol):
    """How much to draft; decides from counts of the past, never from tokens it then discards."""

    @property
    def adaptive(self) -> bool:
        """Whether what happened to earlier drafts changes the budget. Where that could tell of
        tokens that an outer rule discarded and draws again, the pairing is refused."""
        ...

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """The budget for the next round of one request; `batch` requests share its forward."""
        ...
