"""How long and how wide to draft."""

from outrider.policies.curve import CostCurve
from outrider.policies.fixed import FixedLength, FixedTree
from outrider.policies.gain import ExpectedGain
from outrider.policies.source import Source
from outrider.policies.stop import ConfidenceStop, SpecDecPlus

__all__ = [
    "ConfidenceStop",
    "CostCurve",
    "ExpectedGain",
    "FixedLength",
    "FixedTree",
    "Source",
    "SpecDecPlus",
]
