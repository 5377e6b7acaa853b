"""A drafter whose trees are watched: which nodes are accepted goes into statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from outrider.core.counters import Counters
from outrider.core.types import Budget, Draft, IntArray, Verified
from outrider.decoding.wrapping import WrappedDrafter
from outrider.drafters.statistics.tree_statistics import TreeStatistics
from outrider.protocols import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(WrappedDrafter):
    """Drafts what `drafter` drafts, and counts in `observe` which nodes of its trees are accepted.

    Run it over some texts with a large template and a budget as large, then
    `optimise_template(recorded.statistics, nodes)`.

    Attributes:
        drafter: any that drafts trees; drafts that bear another origin are not counted.
        statistics: the counts; shared by all requests.
    """

    statistics: TreeStatistics = field(default_factory=TreeStatistics)

    def begin(
        self, requests: Sequence[Request], previous: Sequence[Any | None] | None = None
    ) -> list[Any]:
        """The drafter's states."""
        return self.drafter.begin(requests, previous)

    def propose(
        self, states: Sequence[Any], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """The drafter's drafts."""
        return self.drafter.propose(states, tails, budgets)

    def observe(self, states: Sequence[Any], verified: Sequence[Verified]) -> None:
        """Count, then let the drafter learn."""
        for seen in verified:
            if len(seen.draft) and seen.draft.origin == self.name and seen.verdict.error is None:
                self.statistics.note(seen.draft, seen.verdict.path)
        self.drafter.observe(states, verified)

    def commit(self, states: Sequence[Any], tokens: Sequence[IntArray]) -> None:
        """Let the drafter take note."""
        self.drafter.commit(states, tokens)

    def counters(self, state: Any) -> dict[str, Counters]:
        """The drafter's."""
        return self.drafter.counters(state)
