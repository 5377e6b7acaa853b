"""Settings of a tuning."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from outrider.bench.settings import Models
from outrider.bench.settings import Settings as BenchSettings
from outrider.bench.strategies import parse_strategies
from outrider.bench.workloads import WORKLOADS
from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError

SHARES = {"facts": 0.10, "record": 0.15, "replay": 0.15, "race": 0.40, "verdict": 0.20}
"""Parts of the budget for one request at a time."""
TOGETHER = "concurrency"
_TOGETHER_SHARE = 0.3
"""Part of the budget for several requests at once, if it is asked for."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TOGETHER_RANGE = Range(1, 1024, whole=True, hint="Give numbers of requests, such as 1,4,16")
_BUDGET = Range(0, above=True, hint="Give seconds, or a time such as 10m")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """What is tuned, on which prompts, and for how long.

    Attributes:
        models: the models.
        workloads: files or names of prompts; empty: the shipped workloads.
        prompts: most prompts of each class; None: all.
        sampling: keywords of `SamplingParams`.
        budget: seconds for everything after the models are loaded.
        arms: strategies that are raced in any case.
        concurrency: numbers of requests at once, for which the arm is measured as well.
        force: tune although the machine is too busy.

    Raises:
        OptionError: a value out of range.
    """

    models: Models = field(default_factory=Models)
    workloads: Sequence[str] = ()
    prompts: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    budget: float = 600.0
    arms: Sequence[str] = ()
    concurrency: Sequence[int] = ()
    force: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, {"budget": _BUDGET})
        for number in self.concurrency:
            _TOGETHER_RANGE.check(TOGETHER, number)
        _ = self.bench  # evaluated for its checks
        for arm in self.arms:
            parse_strategies(arm)

    @property
    def bench(self) -> BenchSettings:
        """The same, as settings of a bench."""
        return BenchSettings(
            models=self.models,
            workloads=tuple(self.workloads or WORKLOADS),
            prompts=self.prompts or 1 << 20,
            repeats=1,
            sampling=dict(self.sampling),
        )

    @property
    def levels(self) -> list[int]:
        """The numbers of requests above 1, ascending; one request at a time is always measured."""
        return sorted({number for number in self.concurrency if number > 1})

    @property
    def shares(self) -> dict[str, float]:
        """The parts of the budget."""
        if not self.levels:
            return SHARES
        alone = {part: share * (1.0 - _TOGETHER_SHARE) for part, share in SHARES.items()}
        return {**alone, TOGETHER: _TOGETHER_SHARE}

    def seconds(self, part: str) -> float:
        """Return the seconds of one part of the budget."""
        return self.budget * self.shares[part]

    def to_dict(self) -> dict[str, Any]:
        """Return what must be equal to continue a tuning."""
        return self.bench.to_dict() | {"arms": list(self.arms)}


def parse_numbers(text: str) -> tuple[int, ...]:
    """Read numbers of requests such as `1,4,16`.

    Raises:
        OptionError: one is no number.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"concurrency is {text!r:.60}", hint="Give numbers such as 1,4,16")
    return tuple(map(int, parts))


def parse_budget(text: str) -> float:
    """Read a time such as `90`, `90s`, `10m` or `1h`; return seconds.

    Raises:
        OptionError: it is no time.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if found is None or not float(found[1]):
        raise OptionError(f"budget is {text!r}", hint="Give a time such as 90s, 10m or 1h")
    return float(found[1]) * _UNITS[found[2] or "s"]
