"""Drafters: methods that propose tokens. Each method has its own file."""

from typing import TYPE_CHECKING

from outrider.core.lazy import on_first_use

if TYPE_CHECKING:
    from outrider.drafters.combine.bypass import Bypass
    from outrider.drafters.combine.fallback import Fallback
    from outrider.drafters.combine.merge import Merge
    from outrider.drafters.combine.pearl import Pearl
    from outrider.drafters.combine.pyramid import Qualified
    from outrider.drafters.combine.specmquant import SpecMQuant
    from outrider.drafters.combine.switch import Switch
    from outrider.drafters.copying.copyspec import CopySpec
    from outrider.drafters.copying.iad import Aggressive
    from outrider.drafters.copying.lookup import Lookup
    from outrider.drafters.copying.rest import Rest
    from outrider.drafters.copying.sam import Sam
    from outrider.drafters.copying.successors import Successors
    from outrider.drafters.copying.suffix import Suffix
    from outrider.drafters.layers.del_ import DynamicExit
    from outrider.drafters.layers.skip import EvenSkip
    from outrider.drafters.layers.swift import Swift
    from outrider.drafters.neural.model import ModelDrafter
    from outrider.drafters.neural.tree import TreeDrafter
    from outrider.drafters.neural.universal import Universal
    from outrider.drafters.none import NoDrafter
    from outrider.drafters.statistics.aded import Aded
    from outrider.drafters.statistics.lookahead import Lookahead
    from outrider.drafters.statistics.recorded import Recorded
    from outrider.drafters.statistics.recycling import TokenRecycling
    from outrider.drafters.statistics.stand import Stand
    from outrider.drafters.statistics.template import Template

__getattr__ = on_first_use(
    __name__,
    {
        "Aded": "statistics.aded",
        "Aggressive": "copying.iad",
        "Bypass": "combine.bypass",
        "CopySpec": "copying.copyspec",
        "DynamicExit": "layers.del_",
        "EvenSkip": "layers.skip",
        "Fallback": "combine.fallback",
        "Lookahead": "statistics.lookahead",
        "Lookup": "copying.lookup",
        "Merge": "combine.merge",
        "ModelDrafter": "neural.model",
        "NoDrafter": "none",
        "Pearl": "combine.pearl",
        "Qualified": "combine.pyramid",
        "Recorded": "statistics.recorded",
        "Rest": "copying.rest",
        "Sam": "copying.sam",
        "SpecMQuant": "combine.specmquant",
        "Stand": "statistics.stand",
        "Successors": "copying.successors",
        "Suffix": "copying.suffix",
        "Swift": "layers.swift",
        "Switch": "combine.switch",
        "Template": "statistics.template",
        "TokenRecycling": "statistics.recycling",
        "TreeDrafter": "neural.tree",
        "Universal": "neural.universal",
    },
)

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
    "Pearl",
    "Qualified",
    "Recorded",
    "Rest",
    "Sam",
    "SpecMQuant",
    "Stand",
    "Successors",
    "Suffix",
    "Swift",
    "Switch",
    "Template",
    "TokenRecycling",
    "TreeDrafter",
    "Universal",
]
