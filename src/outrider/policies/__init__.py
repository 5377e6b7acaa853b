"""Policies decide how long and how wide the drafts of each round are."""

from outrider.policies.confidence import ConfidenceStop
from outrider.policies.curve import CostCurve
from outrider.policies.expected_gain import ExpectedGain
from outrider.policies.fixed import FixedLength
from outrider.policies.fixed_tree import FixedTree
from outrider.policies.source import Source
from outrider.policies.specdec_plus import SpecDecPlus

__all__ = [
    "ConfidenceStop",
    "CostCurve",
    "ExpectedGain",
    "FixedLength",
    "FixedTree",
    "Source",
    "SpecDecPlus",
]
