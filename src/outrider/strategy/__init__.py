"""Which target, drafter, rule and policy work together."""

from outrider.strategy.modes import (
    DEFAULT_THRESHOLD_QUALIFIER,
    DEFAULT_THRESHOLD_TARGET,
    MODES,
    PyramidConfig,
    pyramid,
    tier_names,
)
from outrider.strategy.strategy import Strategy

__all__ = [
    "DEFAULT_THRESHOLD_QUALIFIER",
    "DEFAULT_THRESHOLD_TARGET",
    "MODES",
    "PyramidConfig",
    "Strategy",
    "pyramid",
    "tier_names",
]
