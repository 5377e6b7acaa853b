"""Whatever proposes: one method a file."""

from outrider.drafters.bypass import Bypass
from outrider.drafters.fallback import Fallback
from outrider.drafters.lookup import Lookup
from outrider.drafters.model import ModelDrafter
from outrider.drafters.none import NoDrafter
from outrider.drafters.qualified import Qualified
from outrider.drafters.tree_model import TreeDrafter

__all__ = [
    "Bypass",
    "Fallback",
    "Lookup",
    "ModelDrafter",
    "NoDrafter",
    "Qualified",
    "TreeDrafter",
]
