"""Trees of a fixed shape: a fixed number of children at each depth."""

from dataclasses import dataclass

from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.levels import by_levels, check_widths
from outrider.drafters.neural.growth.tree_builder import TreeBuilder
from outrider.protocols.method import Method


@dataclass(frozen=True, slots=True)
class TopK:
    """`widths[d]` children under each node of depth d: the most likely tokens.

    Under `Match`, tokens are ranked after the noise of the target's choices is added
    (`Picking.COUPLED`). Under a rule that reads distributions, they are the top of the distribution
    and are judged as deterministic picks.

    Raises:
        OptionError: no widths, or one below 1.
    """

    widths: tuple[int, ...] = (4, 2, 2, 1, 1, 1)

    draw = Draw.DETERMINISTIC

    def __post_init__(self) -> None:
        check_widths(self.widths)

    @property
    def breadth(self) -> int:
        """The largest number of children of one node."""
        return max(self.widths)

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree level by level."""
        return by_levels(builder, self.widths)


METHOD = Method(
    name="top-k",
    cls=TopK,
    summary="the best children of each node, in a fixed shape",
)
