"""Ways in which trees of drafts grow: one method a file, whoever tells what may follow a node."""

from outrider.drafters.growth.dyspec import DySpec, DySpecLevels
from outrider.drafters.growth.eagle2 import Eagle2
from outrider.drafters.growth.fixed import RsdC, TopK
from outrider.drafters.growth.growing import Growing, Growth, NextLaws, grow_all
from outrider.drafters.growth.iid import IidTree
from outrider.drafters.growth.outlook import Outlook, Picking
from outrider.drafters.growth.plot import Plot
from outrider.drafters.growth.rsd import RsdS
from outrider.drafters.growth.spine import Spine

__all__ = [
    "DySpec",
    "DySpecLevels",
    "Eagle2",
    "Growing",
    "Growth",
    "IidTree",
    "NextLaws",
    "Outlook",
    "Picking",
    "Plot",
    "RsdC",
    "RsdS",
    "Spine",
    "TopK",
    "grow_all",
]
