"""Whatever proposes: one method a file."""

from outrider.drafters.model import ModelDrafter
from outrider.drafters.none import NoDrafter
from outrider.drafters.qualified import Qualified

__all__ = ["ModelDrafter", "NoDrafter", "Qualified"]
