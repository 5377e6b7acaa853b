"""What a search has spent, and what it may spend."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OutriderError

_RANGES = {
    "tokens": Range(1, whole=True, optional=True, hint="Give at least 1 token"),
    "seconds": Range(0.0, above=True, optional=True, hint="Give a time above 0"),
    "rows": Range(1, whole=True, optional=True, hint="Give at least 1 row"),
    "scorer_calls": Range(1, whole=True, optional=True, hint="Give at least 1 call"),
}


class SearchStoppedError(OutriderError):
    """A limit or a cancellation ended a search; what it has found so far is its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Most that a search may spend; None: no limit.

    Attributes:
        tokens: rows that the model computes after the prompt.
        seconds: wall-clock time.
        scorer_calls: texts that the scorer judges.
        rows: rows of caches at once, those of the prompt included.

    Raises:
        OptionError: a limit is not positive.
    """

    tokens: int | None = None
    seconds: float | None = None
    scorer_calls: int | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)


@dataclass(slots=True, kw_only=True)
class Account:
    """Counts of one search.

    Attributes:
        limits: what it may spend.
        cancelled: whether the caller wants it to end.
        forwards: forwards of the model after the prompt.
        tokens: rows that they computed.
        scorer_calls: texts that were judged.
        most_rows: most rows of a cache that were in use at once, those of the prompt included.
        begun: when it began (`perf_counter`).
    """

    limits: Limits = field(default_factory=Limits)
    cancelled: Callable[[], bool] = lambda: False
    forwards: int = 0
    tokens: int = 0
    scorer_calls: int = 0
    most_rows: int = 0
    begun: float = field(default_factory=perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return perf_counter() - self.begun

    def check(self) -> None:
        """Raise `SearchStoppedError` if the search must end before it computes anything more."""
        limits = self.limits
        if self.cancelled():
            raise SearchStoppedError("it was cancelled")
        if limits.tokens is not None and self.tokens >= limits.tokens:
            raise SearchStoppedError(f"the limit of {limits.tokens} computed tokens is reached")
        if limits.seconds is not None and self.seconds >= limits.seconds:
            raise SearchStoppedError(f"the limit of {limits.seconds:g} seconds is reached")

    def forward(self, rows: int) -> None:
        """Count a forward over so many rows."""
        self.forwards += 1
        self.tokens += rows

    def hold(self, rows: int) -> None:
        """Note how many rows caches have. Raises `SearchStoppedError` if they are too many."""
        most = self.limits.rows
        if most is not None and rows > most:
            raise SearchStoppedError(f"the limit of {most} rows of caches is reached")
        self.most_rows = max(self.most_rows, rows)

    def judge(self, texts: int) -> None:
        """Count texts before they are judged. Raises `SearchStoppedError` if they are too many."""
        most = self.limits.scorer_calls
        if most is not None and self.scorer_calls + texts > most:
            raise SearchStoppedError(f"the limit of {most} judged texts is reached")
        self.scorer_calls += texts
