"""A drafter wrapper that records which nodes of its trees are accepted."""

import atexit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from outrider.core.counters import Counters
from outrider.core.types import Budget, Draft, IntArray, Verified
from outrider.decoding.wrapping import WrappedDrafter
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.statistics.tree_statistics import TreeStatistics
from outrider.policies import Source
from outrider.protocols import Drafter, DrafterState, Request
from outrider.protocols.method import Paper, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(WrappedDrafter):
    """Returns the drafts of `drafter`, and counts in `observe` which nodes of its trees are
    accepted.

    Run it over some texts with a large template and an equally large budget, then call
    `optimise_template(recorded.statistics, nodes)`.

    Attributes:
        drafter: any drafter of trees; drafts with another origin are not counted.
        statistics: the counts; shared by all requests.
        file: the file that a build by name reads and writes; empty for no file.
    """

    statistics: TreeStatistics = field(default_factory=TreeStatistics)
    file: str = ""

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[DrafterState]:
        """Create the states of the wrapped drafter."""
        return self.drafter.begin(requests, previous)

    def propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return the drafts of the wrapped drafter unchanged."""
        return self.drafter.propose(states, tails, budgets)

    def observe(self, states: Sequence[DrafterState], verified: Sequence[Verified]) -> None:
        """Count the accepted nodes, then let the wrapped drafter learn."""
        for seen in verified:
            if len(seen.draft) and seen.draft.origin == self.name and seen.verdict.error is None:
                self.statistics.note(seen.draft, seen.verdict.path)
        self.drafter.observe(states, verified)

    def commit(self, states: Sequence[DrafterState], tokens: Sequence[IntArray]) -> None:
        """Commit the tokens to the wrapped drafter."""
        self.drafter.commit(states, tokens)

    def counters(self, state: DrafterState) -> dict[str, Counters]:
        """Return the counters of the tiers inside the wrapped drafter."""
        return self.drafter.counters(state)


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Recorded:
    """Build the wrapper. With a file, its counts are loaded now and written when the program
    ends."""
    file = options.get("file")
    if not isinstance(file, str) or not file:
        return Recorded(drafter=inner[0])
    path = Path(file).expanduser()
    statistics = TreeStatistics.load(path) if path.exists() else TreeStatistics()
    atexit.register(statistics.save, path)
    return Recorded(drafter=inner[0], statistics=statistics, file=file)


def _priors(drafter: Recorded, given: Given) -> tuple[Source, ...]:
    return given.priors_of(drafter.drafter)


METHOD = DrafterMethod(
    name="recorded",
    cls=Recorded,
    summary="another drafter, with counts of the accepted nodes of its trees",
    paper=Paper("Sequoia", "2402.12374"),
    memory="8 bytes a node of the template",
    make=_make,
    priors=_priors,
    inner=1,
    tree=True,
)
