"""Acceptance rules: what to keep of a draft. One rule a file."""

from outrider.acceptance.calibration import (
    Calibration,
    ModelId,
    Subject,
    Threshold,
    find_calibration,
    load_calibrations,
    save_calibrations,
)
from outrider.acceptance.divergence import DIVERGENCES, Divergence, divergence
from outrider.acceptance.fuzzy import Fuzzy
from outrider.acceptance.match import Match
from outrider.acceptance.rejection import Rejection

__all__ = [
    "DIVERGENCES",
    "Calibration",
    "Divergence",
    "Fuzzy",
    "Match",
    "ModelId",
    "Rejection",
    "Subject",
    "Threshold",
    "divergence",
    "find_calibration",
    "load_calibrations",
    "save_calibrations",
]
