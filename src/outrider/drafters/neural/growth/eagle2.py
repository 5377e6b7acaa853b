"""EAGLE-2: a tree that follows the drafter's confidence and is re-ranked as a whole."""

from dataclasses import dataclass

import numpy as np

from outrider.core.checks import AT_LEAST_ONE
from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.tree_builder import TreeBuilder
from outrider.protocols.method import Method, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Eagle2:
    """Expand the `width` best nodes of each level by `width` children each, then keep the best of
    all nodes (EAGLE-2, Li et al. 2024, arXiv 2406.16858; K is `width`).

    A node's score is the sum of the logs of the estimated chances on its path, and so never above
    its parent's: the best n of all nodes form a tree. The budget sets the depth (code depth + 1)
    and the number of nodes (total tokens - 1). The nodes are a function of the distribution and are
    judged as deterministic picks: accepting them with probability p / q would be wrong.

    Raises:
        OptionError: a width below 1.
    """

    width: int = 10

    draw = Draw.DETERMINISTIC

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("width", self.width)

    @property
    def breadth(self) -> int:
        """The number of children of one expanded node."""
        return self.width

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree level by level, from the best leaves only."""
        leaves = [-1]
        while leaves:
            yield leaves
            level = [child for node in leaves for child in builder.add_children(node, self.width)]
            builder.prune()
            best = np.argsort([-builder.worth[node] for node in level], kind="stable")
            leaves = [level[i] for i in best[: self.width]]
            leaves = [node for node in leaves if builder.may_grow(node)]


METHOD = Method(
    name="eagle2",
    cls=Eagle2,
    summary="the likeliest paths of all, ranked again as a whole",
    paper=Paper("EAGLE-2", "2406.16858"),
    defaults={"width": 4},
)
