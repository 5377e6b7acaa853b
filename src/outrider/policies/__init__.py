"""Policies decide how long and how wide the drafts of each round are."""

from outrider.policies.confidence import ConfidenceStop
from outrider.policies.expected_gain import ExpectedGain
from outrider.policies.fixed import FixedLength
from outrider.policies.fixed_tree import FixedTree
from outrider.policies.source import Source
from outrider.policies.specdec_plus import SpecDecPlus
from outrider.policies.stop_head import StopHead
from outrider.policies.surface import CostSurface

__all__ = [
    "ConfidenceStop",
    "CostSurface",
    "ExpectedGain",
    "FixedLength",
    "FixedTree",
    "Source",
    "SpecDecPlus",
    "StopHead",
]
