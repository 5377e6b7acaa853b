"""What the operator of a server allows of searches."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges, shown
from outrider.core.expression import Expression
from outrider.search import Scorer
from outrider.server.errors import invalid

MOST = 1024
"""Largest whole number that an option of a strategy may have."""
_LOADED = frozenset({"model"})
"""Options that name a model to load, which only the operator may do."""
_RANGES = {"tokens": AT_LEAST_ONE, "seconds": Range(0.0, above=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """What the operator allows.

    Attributes:
        scorers: what may judge texts, by the name that requests give.
        tokens: most rows that the model computes for a search.
        rows: most rows of its caches at once.
        seconds: most seconds of a search; other requests are served beside it.

    Raises:
        OptionError: a limit is not positive.
    """

    scorers: Mapping[str, Scorer] = field(default_factory=dict[str, Scorer])
    tokens: int = 100_000
    rows: int = 1 << 16
    seconds: float = 120.0

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def check(self, text: str) -> None:
        """Raise `ApiError` for a strategy with a number that would take the whole machine or with a
        model to load, and `OptionError` for a text that is no strategy."""
        for name, value in Expression.parse(text, "search").options.items():
            if name in _LOADED:
                raise invalid(f"{name} names a model, and requests load none", "search")
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and number > MOST:
                    raise invalid(f"{name} is {shown(number)}. Give at most {MOST}", "search")

    def scorer(self, name: str | None) -> Scorer | None:
        """Return a scorer by name. Raises `ApiError` if there is none of this name."""
        if name is None:
            return None
        if name not in self.scorers:
            known = ", ".join(self.scorers) or "none"
            raise invalid(f"unknown scorer {name!r:.80}. Known here: {known}", "scorer")
        return self.scorers[name]
