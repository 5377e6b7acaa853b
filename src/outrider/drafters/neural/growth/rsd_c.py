"""RSD-C: siblings drawn without replacement, in a fixed shape."""

from dataclasses import dataclass

from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.levels import by_levels, check_widths
from outrider.drafters.neural.growth.tree_builder import TreeBuilder
from outrider.protocols.method import Method, Paper


@dataclass(frozen=True, slots=True)
class RsdC:
    """RSD-C: `branching[d]` children under each node of depth d, drawn without replacement (Jeon et
    al. 2024, arXiv 2402.14160; its b_1 .. b_L are `branching`).

    A sample without replacement is the top of log q + Gumbel noise. Under `Match` the noise is the
    noise of the target's choices, and the tree equals the one of `TopK`; under `RecursiveRejection`
    each node has separate noise.

    Raises:
        OptionError: no numbers, or one below 1.
    """

    branching: tuple[int, ...] = (2, 2, 2, 1, 1)

    draw = Draw.WITHOUT_REPLACEMENT

    def __post_init__(self) -> None:
        check_widths(self.branching)

    @property
    def breadth(self) -> int:
        """The largest number of children of one node."""
        return max(self.branching)

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree level by level."""
        return by_levels(builder, self.branching)


METHOD = Method(
    name="rsd-c",
    cls=RsdC,
    summary="siblings drawn without replacement, in a fixed shape",
    paper=Paper("RSD", "2402.14160"),
)
