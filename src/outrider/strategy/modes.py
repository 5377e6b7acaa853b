"""Modes of a pyramid: each mode sets the acceptance rule of every level."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outrider.acceptance import Fuzzy, Match, Rejection, divergence
from outrider.core.checks import AT_LEAST_ONE, Range, check_ranges
from outrider.core.errors import OptionError, OutriderWarning, nearest
from outrider.drafters import ModelDrafter, Qualified
from outrider.drafters.combine.pyramid import tier_names
from outrider.policies import FixedLength
from outrider.protocols import AcceptanceRule, Drafter, LanguageModel
from outrider.strategy.catalogue import MODES
from outrider.strategy.strategy import Strategy

DEFAULT_THRESHOLD_QUALIFIER = 0.3
DEFAULT_THRESHOLD_TARGET = 0.4


_RANGES: Mapping[str, Range] = {
    "num_speculative_tokens": AT_LEAST_ONE,
    "num_qualified_tokens": AT_LEAST_ONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidConfig:
    """Options of a pyramid. A window is the length of a draft, in tokens.

    Attributes:
        mode: one of `MODES`.
        num_speculative_tokens: the draft model's window (PyramidSD's LD).
        num_qualified_tokens: tokens collected before the target is called (LQ).
        divergence: the divergence that the fuzzy rules compute.
        threshold_qualifier: tau_Q, the qualifier's tolerance of the draft model.
        threshold_target: tau_T, the target's tolerance of tokens that the qualifier accepted.
        max_changed: largest share of written tokens that may differ from the target's choice; None
            sets no limit.
    """

    mode: str = "exact"
    num_speculative_tokens: int = 5
    num_qualified_tokens: int = 10
    divergence: str = "js"
    threshold_qualifier: float = DEFAULT_THRESHOLD_QUALIFIER
    threshold_target: float = DEFAULT_THRESHOLD_TARGET
    max_changed: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise OptionError(f"unknown mode {self.mode!r}", hint=nearest(self.mode, MODES))
        divergence(self.divergence)
        check_ranges(self, _RANGES)
        if self.max_changed is not None and self.mode not in ("assisted", "fuzzy"):
            raise OptionError(
                f"max_changed is given, but mode {self.mode!r} changes no token",
                hint="Use mode assisted or fuzzy, or leave it out",
            )

    @property
    def outer_rule(self) -> AcceptanceRule:
        """Build the rule by which the target accepts."""
        if self.mode in ("assisted", "fuzzy"):
            return Fuzzy(
                divergence=self.divergence,
                threshold=self.threshold_target,
                max_changed=self.max_changed,
            )
        return Rejection() if self.mode == "distribution" else Match()

    @property
    def inner_rule(self) -> AcceptanceRule:
        """Build the rule by which every qualifier accepts."""
        if self.mode == "fuzzy":
            return Fuzzy(divergence=self.divergence, threshold=self.threshold_qualifier)
        return Match()


def pyramid(
    target: LanguageModel,
    draft: LanguageModel | None = None,
    qualifiers: Sequence[LanguageModel] = (),
    config: PyramidConfig | None = None,
) -> Strategy:
    """Build a cascade of any depth: `qualifiers` from the largest to the smallest, then `draft`.

    Without a qualifier this is two-tier speculative decoding; with mode `none`, or without a draft
    model, plain decoding. Without a draft model, the smallest qualifier drafts.
    """
    config = config or PyramidConfig()
    models = [*qualifiers, *([draft] if draft is not None else [])]
    if config.mode == "none" or not models:
        return Strategy(target=target)
    if len(models) > 1 and config.mode == "fuzzy":
        _check_thresholds(config)
    drafter: Drafter = ModelDrafter(model=models[-1])
    windows, names = _windows(config, len(models)), tier_names(len(models) - 1)
    for depth, qualifier in reversed(list(enumerate(models[:-1]))):
        drafter = Qualified(
            drafter=drafter,
            qualifier=qualifier,
            rule=config.inner_rule,
            policy=FixedLength(windows[depth + 1]),
            name=names[depth],
        )
    return Strategy(
        target=target, drafter=drafter, rule=config.outer_rule, policy=FixedLength(windows[0])
    )


def _check_thresholds(config: PyramidConfig) -> None:
    """Warn if the qualifier is more tolerant than the target."""
    if config.threshold_qualifier > config.threshold_target:
        warnings.warn(
            f"the qualifier's threshold {config.threshold_qualifier:g} is above the target's "
            f"{config.threshold_target:g}: the target will reject many tokens that the qualifier "
            "accepts",
            OutriderWarning,
            stacklevel=3,
        )


def _windows(config: PyramidConfig, stages: int) -> list[int]:
    """Return a window for each stage, outermost first, in even steps from LQ down to LD."""
    first, last = config.num_qualified_tokens, config.num_speculative_tokens
    if stages == 1:
        return [last]
    return [round(first + (last - first) * i / (stages - 1)) for i in range(stages)]
