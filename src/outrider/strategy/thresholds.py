"""Thresholds as the user gives them: a divergence, or a share that a calibration resolves."""

from dataclasses import dataclass

from outrider.strategy.calibration import Threshold
from outrider.strategy.modes import DEFAULT_THRESHOLD_QUALIFIER, DEFAULT_THRESHOLD_TARGET


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of the qualifier and the target; shares are resolved for given warps."""

    mode: str
    qualifier: Threshold
    target: Threshold

    @classmethod
    def parse(
        cls, mode: str, qualifier: float | str | None, target: float | str | None
    ) -> "Thresholds":
        """Parse both thresholds; None stands for the default. Raises `OptionError`."""
        tau_q = DEFAULT_THRESHOLD_QUALIFIER if qualifier is None else qualifier
        tau_t = DEFAULT_THRESHOLD_TARGET if target is None else target
        return cls(mode, Threshold.parse(tau_q), Threshold.parse(tau_t))

    @property
    def calibrated(self) -> bool:
        """Whether a calibration is needed: the mode reads a threshold that is given as a share."""
        read = {"assisted": [self.target], "fuzzy": [self.target, self.qualifier]}
        return any(threshold.value is None for threshold in read.get(self.mode, []))

    @property
    def plain_qualifier(self) -> float:
        """The qualifier's divergence; a placeholder while a share is not resolved."""
        value = self.qualifier.value
        return DEFAULT_THRESHOLD_QUALIFIER if value is None else value

    @property
    def plain_target(self) -> float:
        """The target's divergence; a placeholder while a share is not resolved."""
        return DEFAULT_THRESHOLD_TARGET if self.target.value is None else self.target.value
