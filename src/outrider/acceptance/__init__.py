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
from outrider.acceptance.kseq import KSeq
from outrider.acceptance.match import Match
from outrider.acceptance.recursive import RecursiveRejection
from outrider.acceptance.rejection import Rejection
from outrider.acceptance.tolerance import TopBeta
from outrider.acceptance.typical import Typical

__all__ = [
    "DIVERGENCES",
    "Calibration",
    "Divergence",
    "Fuzzy",
    "KSeq",
    "Match",
    "ModelId",
    "RecursiveRejection",
    "Rejection",
    "Subject",
    "Threshold",
    "TopBeta",
    "Typical",
    "divergence",
    "find_calibration",
    "load_calibrations",
    "save_calibrations",
]
