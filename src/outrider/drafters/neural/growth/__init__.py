"""Growth methods for draft trees, one per file. They work with any source of next-token
distributions."""

from outrider.drafters.neural.growth.clover import Clover
from outrider.drafters.neural.growth.dyspec import DySpecLevels
from outrider.drafters.neural.growth.dyspec_nodes import DySpec
from outrider.drafters.neural.growth.eagle2 import Eagle2
from outrider.drafters.neural.growth.growing import Growth, GrowthSteps, NextProbs, grow_all
from outrider.drafters.neural.growth.iid import IidTree
from outrider.drafters.neural.growth.next_tokens import NextTokens, Picking
from outrider.drafters.neural.growth.rsd_c import RsdC
from outrider.drafters.neural.growth.rsd_s import RsdS
from outrider.drafters.neural.growth.spine import Spine
from outrider.drafters.neural.growth.top_k import TopK
from outrider.drafters.neural.growth.tree_builder import TreeBuilder

__all__ = [
    "Clover",
    "DySpec",
    "DySpecLevels",
    "Eagle2",
    "Growth",
    "GrowthSteps",
    "IidTree",
    "NextProbs",
    "NextTokens",
    "Picking",
    "RsdC",
    "RsdS",
    "Spine",
    "TopK",
    "TreeBuilder",
    "grow_all",
]
