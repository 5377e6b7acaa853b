"""What `load` was asked for: who drafts, at which lengths, with which thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from outrider.acceptance.calibration import Calibration, ModelId, Subject, Threshold
from outrider.drafters import Lookup
from outrider.engine.automatic import DRAFTERS, Automatic
from outrider.errors import OptionError, nearest
from outrider.policies import FixedLength
from outrider.protocols import LanguageModel
from outrider.sampling import SamplingParams
from outrider.strategy import (
    DEFAULT_THRESHOLD_QUALIFIER,
    DEFAULT_THRESHOLD_TARGET,
    PyramidConfig,
    Strategy,
    pyramid,
)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Both thresholds as given. A share can be resolved only once the warps are known."""

    mode: str
    qualifier: Threshold
    target: Threshold

    @classmethod
    def parse(
        cls, mode: str, qualifier: float | str | None, target: float | str | None
    ) -> "Thresholds":
        """Read both; None stands for the default. Raises `OptionError`."""
        tau_q = DEFAULT_THRESHOLD_QUALIFIER if qualifier is None else qualifier
        tau_t = DEFAULT_THRESHOLD_TARGET if target is None else target
        return cls(mode, Threshold.parse(tau_q), Threshold.parse(tau_t))

    @property
    def calibrated(self) -> bool:
        """Whether a calibration is needed: a threshold that the mode reads is a share."""
        read = {"assisted": [self.target], "fuzzy": [self.target, self.qualifier]}
        return any(threshold.value is None for threshold in read.get(self.mode, []))

    @property
    def plain_qualifier(self) -> float:
        """The qualifier's number, or a stand-in until it is looked up."""
        value = self.qualifier.value
        return DEFAULT_THRESHOLD_QUALIFIER if value is None else value

    @property
    def plain_target(self) -> float:
        """The target's number, or a stand-in until it is looked up."""
        return DEFAULT_THRESHOLD_TARGET if self.target.value is None else self.target.value


@dataclass(frozen=True, slots=True)
class Recipe:
    """Who drafts, and whether at lengths that stay as they are."""

    drafter: str
    config: PyramidConfig
    fixed: bool

    @classmethod
    def of(cls, drafter: str, config: PyramidConfig, length: int | None) -> "Recipe":
        """Raises `OptionError` for an unknown drafter, or one whose tokens the mode can not judge.

        `length` is a draft length that was given, or None.
        """
        if drafter not in DRAFTERS:
            raise OptionError(f"unknown drafter {drafter!r}", hint=nearest(drafter, DRAFTERS))
        if drafter == "lookup" and config.mode in ("assisted", "fuzzy"):
            raise OptionError(
                f"mode {config.mode!r} compares the laws of two models, and a lookup has none",
                hint="Use mode exact, or another drafter",
            )
        return cls(drafter, config, length is not None or config.mode != "exact")

    def tiers(self, found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """The tiers that take part: target first, draft model last."""
        if self.drafter in ("lookup", "none"):
            return found[:1]
        return [found[0], *found[1:][-1:]] if self.drafter == "model" else found

    def check(self, tiers: int) -> None:
        """Raise `OptionError` when there are too few tiers."""
        mode, drafter = self.config.mode, self.drafter
        if mode == "none" or drafter in ("lookup", "none"):
            return
        if drafter == "pyramid" and tiers < 3:
            raise OptionError(
                "drafter 'pyramid' needs a qualifier and a draft model",
                hint="Give qualifier=... and draft=..., or use drafter 'auto'",
            )
        if tiers < 2 and (drafter == "model" or mode != "exact"):
            raise OptionError(
                f"mode {mode!r} with drafter {drafter!r} needs a draft model or a qualifier",
                hint="Give draft=..., or use mode 'exact' with drafter 'lookup'",
            )

    def strategy(self, models: Sequence[LanguageModel], config: PyramidConfig) -> Strategy:
        """The strategy over `models`; `config` is this recipe's, its thresholds resolved."""
        target, *below = models
        if config.mode == "none" or self.drafter == "none":
            return Strategy(target=target)
        if not self.fixed:
            return Automatic(target, below).strategy(self.drafter)
        if below:
            return pyramid(target, below[-1], below[:-1], config)
        length = FixedLength(config.num_speculative_tokens)
        return Strategy(target=target, drafter=Lookup(), rule=config.outer_rule, policy=length)


@dataclass(frozen=True, slots=True)
class Cascade:
    """Models, largest first, and what a strategy over them needs to know."""

    models: tuple[LanguageModel, ...]
    recipe: Recipe
    thresholds: Thresholds
    calibrations: tuple[Calibration, ...]

    def strategy(self, params: SamplingParams) -> Strategy:
        """The strategy for requests with these warps; shares of positions become divergences."""
        config = self.recipe.config
        if self.thresholds.calibrated and len(self.models) > 1:
            config = replace(config, threshold_target=self._resolve(0, params))
            if len(self.models) > 2 and config.mode == "fuzzy":
                config = replace(config, threshold_qualifier=self._resolve(1, params))
        return self.recipe.strategy(self.models, config)

    def _resolve(self, verifier: int, params: SamplingParams) -> float:
        threshold = self.thresholds.target if verifier == 0 else self.thresholds.qualifier
        subject = Subject(
            divergence=self.recipe.config.divergence,
            proposer=ModelId.of(self.models[verifier + 1]),
            verifier=ModelId.of(self.models[verifier]),
            warps=params.warps,
        )
        return threshold.resolve(self.calibrations, subject)
