"""Recipes for decoding: which target, drafter, acceptance rule and draft policy work together."""

from typing import TYPE_CHECKING

from outrider.core.lazy import on_first_use

if TYPE_CHECKING:
    from outrider.strategy.catalogue import MODES
    from outrider.strategy.modes import (
        DEFAULT_THRESHOLD_QUALIFIER,
        DEFAULT_THRESHOLD_TARGET,
        PyramidConfig,
        pyramid,
    )
    from outrider.strategy.profile import Profile
    from outrider.strategy.strategy import Strategy

__getattr__ = on_first_use(
    __name__,
    {
        "DEFAULT_THRESHOLD_QUALIFIER": "modes",
        "DEFAULT_THRESHOLD_TARGET": "modes",
        "MODES": "catalogue",
        "Profile": "profile",
        "PyramidConfig": "modes",
        "Strategy": "strategy",
        "pyramid": "modes",
    },
)

__all__ = [
    "DEFAULT_THRESHOLD_QUALIFIER",
    "DEFAULT_THRESHOLD_TARGET",
    "MODES",
    "Profile",
    "PyramidConfig",
    "Strategy",
    "pyramid",
]
