"""Searches for the engine thread: which of them runs next, and which gives up its place.

The rules are those of the scheduler. The next search has the lowest class; among these, its
principal has paid the least; among these, it came first. It gains one class for each `patience`
seconds of waiting. If all places are taken, a principal that has less than its fair share takes one
from the principal that has the most. Since a search cannot go on later, it is one that waits, and
it is refused.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

from outrider.core.errors import OutriderError
from outrider.engine.serving.scheduler import EXPECTED, class_of
from outrider.search import SearchResult


class SearchNotRunError(OutriderError):
    """A search that was not begun: it waited too long, lost its place, or the engine ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a search asks the engine beside whose requests it runs.

    Attributes:
        ends: runs a step of all other requests, and returns whether the search must end.
        rows: returns how many tokens of its prompt the next forward may read.
    """

    ends: Callable[[], bool]
    rows: Callable[[], int]


@dataclass(slots=True, kw_only=True, eq=False)
class SearchJob:
    """A search for the engine thread.

    Attributes:
        run: runs it beside other requests.
        begin_by: `perf_counter` until which it may wait.
        principal: who pays for it.
        level: its class; lower runs first.
        prompt: tokens of its prompt.
        most: largest number of tokens of a text.
        arrived: `perf_counter` when it arrived.
        result: its result, or its error.
        cancelled: set it to end the search; what was found is its result.
        replaced: whether another search took its place; without effect once it has begun.
        begun: whether it runs or has run.
    """

    run: Callable[[Beside], SearchResult]
    begin_by: float
    principal: str = ""
    level: int = 0
    prompt: int = 0
    most: int = EXPECTED
    arrived: float = field(default_factory=perf_counter)
    result: "Future[SearchResult]" = field(default_factory=Future)
    cancelled: bool = False
    replaced: bool = False
    begun: bool = False

    @property
    def has_place(self) -> bool:
        """Whether it waits or runs for somebody."""
        return not self.cancelled and (self.begun or not self.replaced)

    def due(self, found: SearchResult | None) -> int:
        """Return the tokens that are paid for it: those of the prompt and the computed ones. After
        an error, which does not tell them, they are estimated as for a sample that begins."""
        return self.prompt + (min(self.most, EXPECTED) if found is None else found.tokens)

    def refuse(self, reason: str) -> None:
        """Answer with an error, unless it has an answer."""
        with suppress(InvalidStateError):
            self.result.set_exception(SearchNotRunError(reason, hint="Try again later"))


def next_job(
    jobs: Iterable[SearchJob], now: float, paid: Mapping[str, int], patience: float
) -> SearchJob | None:
    """Return the search that runs next; None if none waits.

    Args:
        jobs: the searches.
        now: on the clock of `SearchJob.arrived`.
        paid: tokens that each principal has paid.
        patience: seconds of waiting after which a search gains one class.
    """
    return min(
        (job for job in jobs if not job.begun),
        key=lambda job: (
            class_of(job.level, now - job.arrived, patience),
            paid.get(job.principal, 0),
            job.arrived,
        ),
        default=None,
    )


def replaced_for(job: SearchJob, others: Sequence[SearchJob], places: int) -> SearchJob | None:
    """Return the search that gives up its place for another one; None if there is none.

    Args:
        job: the search that finds no free place.
        others: the searches that have a place.
        places: how many places there are.
    """
    counts = Counter(other.principal for other in others)
    share = places / len({*counts, job.principal})
    if counts[job.principal] + 1 > share:
        return None
    waiting = [one for one in others if not one.begun and one.level >= job.level]
    rich = [one for one in waiting if counts[one.principal] > share]
    most = max((counts[one.principal] for one in rich), default=0)
    found = [one for one in rich if counts[one.principal] == most]
    return max(found, key=lambda one: one.arrived, default=None)
