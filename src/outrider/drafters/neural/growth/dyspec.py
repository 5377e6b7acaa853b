"""DySpec: the tree grows where the next draw is most likely to be tested."""

from dataclasses import dataclass

from outrider.core.checks import Range
from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.tree_builder import HOPELESS, TreeBuilder
from outrider.protocols.method import Method, Paper

MOST_SIBLINGS = 64
"""The largest number of children of one node."""


_THRESHOLD = Range(0.0, 1.0, above=True, optional=True, hint="Give a chance above 0, such as 0.05")


@dataclass(frozen=True, slots=True, kw_only=True)
class DySpecLevels:
    """DySpec's threshold form: level by level, every place worth at least `threshold`.

    It needs one forward per level. The paper's threshold for a tree of n nodes is about 1 / n.

    Attributes:
        threshold: smallest chance of being tested; None is one divided by the number of nodes
            allowed.

    Raises:
        OptionError: a threshold outside 0 to 1.
    """

    threshold: float | None = None

    draw = Draw.WITHOUT_REPLACEMENT

    def __post_init__(self) -> None:
        _THRESHOLD.check("threshold", self.threshold)

    @property
    def breadth(self) -> int:
        """The largest number of children of one node."""
        return MOST_SIBLINGS

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree level by level."""
        least = max(1.0 / builder.nodes if self.threshold is None else self.threshold, HOPELESS)
        level = [-1]
        while level:
            yield level
            found: list[int] = []
            for parent in level:
                for rank in range(builder.candidates(parent) if builder.may_grow(parent) else 0):
                    if builder.tried(parent, rank) < least:
                        break
                    found.append(builder.add(parent, rank))
            builder.prune()
            level = [node for node in found if builder.may_grow(node)]


METHOD = Method(
    name="dyspec",
    cls=DySpecLevels,
    summary="all nodes likely to be verified; one forward of the draft model for each level",
    paper=Paper("DySpec", "2410.11744"),
)
