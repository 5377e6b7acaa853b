"""Thresholds as given: a divergence, or a share of positions that a calibration resolves."""

from dataclasses import dataclass

from outrider.strategy.calibration import Threshold
from outrider.strategy.modes import DEFAULT_THRESHOLD_QUALIFIER, DEFAULT_THRESHOLD_TARGET


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
