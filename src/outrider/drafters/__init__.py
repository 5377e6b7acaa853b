"""Whatever proposes: one method a file."""

from outrider.drafters.aded import Aded
from outrider.drafters.aggressive import Aggressive
from outrider.drafters.bypass import Bypass
from outrider.drafters.copyspec import CopySpec
from outrider.drafters.dynamic_exit import DynamicExit
from outrider.drafters.fallback import Fallback
from outrider.drafters.lookahead import Lookahead
from outrider.drafters.lookup import Lookup
from outrider.drafters.merge import Merge
from outrider.drafters.model import ModelDrafter
from outrider.drafters.none import NoDrafter
from outrider.drafters.qualified import Qualified
from outrider.drafters.recorded import Recorded
from outrider.drafters.recycling import TokenRecycling
from outrider.drafters.rest import Rest
from outrider.drafters.sam import Sam
from outrider.drafters.skip import EvenSkip
from outrider.drafters.stand import Stand
from outrider.drafters.suffix import Suffix
from outrider.drafters.swift import Swift
from outrider.drafters.switch import Switch
from outrider.drafters.template import Template
from outrider.drafters.tree_model import TreeDrafter

__all__ = [
    "Aded",
    "Aggressive",
    "Bypass",
    "CopySpec",
    "DynamicExit",
    "EvenSkip",
    "Fallback",
    "Lookahead",
    "Lookup",
    "Merge",
    "ModelDrafter",
    "NoDrafter",
    "Qualified",
    "Recorded",
    "Rest",
    "Sam",
    "Stand",
    "Suffix",
    "Swift",
    "Switch",
    "Template",
    "TokenRecycling",
    "TreeDrafter",
]
