"""The guard of drafting: switches drafting off where the clock shows a loss, and on again."""

from outrider.policies.guard.guard import MODES, Guard, Mode, check_mode
from outrider.policies.guard.report import GuardReport, State

__all__ = ["MODES", "Guard", "GuardReport", "Mode", "State", "check_mode"]
