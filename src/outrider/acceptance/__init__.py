"""Acceptance rules decide which drafted tokens are kept. Each rule has its own file."""

from outrider.acceptance.divergence import DIVERGENCES, Divergence, divergence
from outrider.acceptance.fuzzy import Fuzzy
from outrider.acceptance.judge import Judge
from outrider.acceptance.kseq import KSeq
from outrider.acceptance.lud import Lud
from outrider.acceptance.match import Match
from outrider.acceptance.probe import Probe
from outrider.acceptance.recursive import RecursiveRejection
from outrider.acceptance.rejection import Rejection
from outrider.acceptance.top_beta import TopBeta
from outrider.acceptance.typical import Typical

__all__ = [
    "DIVERGENCES",
    "Divergence",
    "Fuzzy",
    "Judge",
    "KSeq",
    "Lud",
    "Match",
    "Probe",
    "RecursiveRejection",
    "Rejection",
    "TopBeta",
    "Typical",
    "divergence",
]
