"""What a bench run is asked to do; two runs with the same fingerprint measure the same thing."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from outrider.bench.strategies import Named, with_baseline
from outrider.bench.workloads import WORKLOADS
from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Which models take part, and how they run.

    Attributes:
        target: a family, a folder or a hub name.
        qualifier: likewise; None takes the family's, `none` leaves it out.
        draft: likewise.
        dtype: of the weights: `auto`, `float32`, `int8`, ...
        device: `auto`, `cpu`, `cuda`, ...
        threads: CPU threads of every system; None leaves it to the load.
        cost_scale: parameters the target is deepened to (`30M`), or a factor (`x4`).
        cost_scale_qualifier: likewise for the qualifier.
        cost_scale_draft: likewise for the draft model.
    """

    target: str = "tiny"
    qualifier: str | None = None
    draft: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    cost_scale: str | None = None
    cost_scale_qualifier: str | None = None
    cost_scale_draft: str | None = None

    @property
    def scaled(self) -> dict[str, str]:
        """Tier -> its cost scale, for the tiers that have one."""
        scales = {
            "target": self.cost_scale,
            "qualifier": self.cost_scale_qualifier,
            "draft": self.cost_scale_draft,
        }
        return {tier: scale for tier, scale in scales.items() if scale}


_RANGES: Mapping[str, Range] = {
    "prompts": AT_LEAST_ONE,
    "repeats": AT_LEAST_ONE,
    "least_tokens": AT_LEAST_ONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole run.

    Attributes:
        models: who is measured.
        strategies: the baseline first.
        workloads: names or files.
        prompts: prompts of each workload.
        repeats: times each strategy writes each text.
        sampling: keywords of `SamplingParams`; `seed` and `max_new_tokens` among them.
        rivals: names of the rivals that are measured in the same run.
        least_tokens: texts shorter than this (in the baseline's run) are written by everyone but
            left out of the ratios: two tokens have no speed.
    """

    models: Models = field(default_factory=Models)
    strategies: Sequence[Named] = field(default_factory=lambda: with_baseline([]))
    workloads: Sequence[str] = tuple(WORKLOADS)
    prompts: int = 8
    repeats: int = 3
    sampling: dict[str, Any] = field(default_factory=dict)
    rivals: Sequence[str] = ()
    least_tokens: int = 8

    def __post_init__(self) -> None:
        from outrider.sampling import SamplingParams

        check_ranges(self, _RANGES)
        object.__setattr__(self, "sampling", _DEFAULTS | self.sampling)
        SamplingParams.of(**self.sampling)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the record and the fingerprint."""
        return {
            "models": asdict(self.models),
            "strategies": {s.name: dict(s.options) for s in self.strategies},
            "workloads": list(self.workloads),
            "prompts": self.prompts,
            "repeats": self.repeats,
            "sampling": self.sampling,
            "rivals": list(self.rivals),
            "least_tokens": self.least_tokens,
        }


_DEFAULTS: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 64, "seed": 1}
"""Given outright, so that a checkpoint's own sampling defaults do not decide what is compared."""


def fingerprint(data: Any) -> str:
    """A short hash of plain data."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """What differs between two settings: `repeats: 3, now 5`, one entry each."""
    found: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after, f"{path}{name}.")
        elif before != after:
            found.append(f"{path}{name}: {before!r:.40}, now {after!r:.40}")
    return found
