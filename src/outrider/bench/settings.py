"""Settings of a bench run; two runs with the same fingerprint measure the same thing."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from outrider.bench.strategies import Named, with_baseline
from outrider.bench.workloads import WORKLOADS
from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.engine.options import Caching


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a run, and how they run.

    Attributes:
        target: a family, a folder or a hub name.
        qualifier: a folder or a hub name; None uses that of the family, `none` leaves it out.
        draft: the draft model, given in the same way.
        dtype: dtype of the weights: `auto`, `float32`, `int8`, ...
        cache_dtype: dtype of keys and values: `auto`, `float32`, `bfloat16`, `int8`.
        device: `auto`, `cpu`, `cuda`, ...
        threads: CPU threads of every system; None uses the choice of `load`.
        cost_scale: number of parameters of the scaled target (`30M`), or a factor (`x4`).
        cost_scale_qualifier: the same for the qualifier.
        cost_scale_draft: the same for the draft model.
        guidance: how every strategy guides the target, the baseline too; None: it is not guided.
        kv_policy: which rows the cache of the target keeps, in every strategy; None: all.
        kv_budget: the budget of that policy.
        draft_kv_policy: the same for the models below the target.
        draft_kv_budget: the budget of that policy.
    """

    target: str = "tiny"
    qualifier: str | None = None
    draft: str | None = None
    dtype: str = "auto"
    cache_dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    cost_scale: str | None = None
    cost_scale_qualifier: str | None = None
    cost_scale_draft: str | None = None
    guidance: str | None = None
    kv_policy: str | None = None
    kv_budget: float | None = None
    draft_kv_policy: str | None = None
    draft_kv_budget: float | None = None

    @property
    def caching(self) -> Caching:
        """The policies. Raises `OptionError` if one is not valid."""
        return Caching.of(
            self.kv_policy, self.kv_budget, self.draft_kv_policy, self.draft_kv_budget
        )

    @property
    def scaled(self) -> dict[str, str]:
        """Map each scaled tier to its cost scale."""
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
    """All settings of a run.

    Attributes:
        models: the models.
        strategies: the strategies, the baseline first.
        workloads: names or files of workloads.
        prompts: number of prompts of each workload.
        repeats: number of times that each strategy writes each text.
        sampling: keywords of `SamplingParams`; `seed` and `max_new_tokens` among them.
        rivals: names of the rivals that are measured in the same run.
        least_tokens: texts with fewer tokens in the baseline's run are left out of the ratios,
            because their speed cannot be measured.
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
        from outrider.strategy.guiding import recipe_of

        check_ranges(self, _RANGES)
        recipe_of(self.models.guidance or 1.0)
        if self.models.caching.target is not None and self.rivals:
            raise OptionError(
                "kv_policy and rivals are given together, and rivals keep all rows of the target",
                hint="Leave one of the two out",
            )
        if self.models.guidance is not None and self.rivals:
            raise OptionError(
                "guidance and rivals are given together, and no rival guides its target",
                hint="Leave one of the two out",
            )
        object.__setattr__(self, "sampling", _DEFAULTS | self.sampling)
        SamplingParams.of(**self.sampling)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for the record and the fingerprint."""
        return {
            "models": {
                name: value
                for name, value in asdict(self.models).items()
                if name not in _LATER or value is not None
            },
            "strategies": {s.name: dict(s.options) for s in self.strategies},
            "workloads": list(self.workloads),
            "prompts": self.prompts,
            "repeats": self.repeats,
            "sampling": self.sampling,
            "rivals": list(self.rivals),
            "least_tokens": self.least_tokens,
        }


_LATER = ("guidance", "kv_policy", "kv_budget", "draft_kv_policy", "draft_kv_budget")
"""Fields that records of older runs do not have."""

_DEFAULTS: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 64, "seed": 1}
"""Set explicitly, so that sampling defaults of a checkpoint do not affect the comparison."""


def fingerprint(data: Any) -> str:
    """A short hash of plain data."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """List the differences of two settings, such as `repeats: 3, now 5`."""
    found: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after, f"{path}{name}.")
        elif before != after:
            found.append(f"{path}{name}: {before!r:.40}, now {after!r:.40}")
    return found
