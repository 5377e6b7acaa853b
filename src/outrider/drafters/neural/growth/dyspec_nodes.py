"""DySpec node by node: the tree grows where the next draw is most likely to be tested."""

import heapq
from dataclasses import dataclass

from outrider.core.types import Draw
from outrider.drafters.neural.growth.dyspec import MOST_SIBLINGS
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.tree_builder import HOPELESS, TreeBuilder
from outrider.protocols.method import Method, Paper


@dataclass(frozen=True, slots=True)
class DySpec:
    """Always adds the draw that is most likely to be tested (Xiong et al. 2024, arXiv 2410.11744).

    A *place* under node u is worth the chance v that the verifier tests it: u is accepted and the
    earlier children of u are rejected. The place with the largest v is drawn next. Let R be the
    remaining distribution there. The drawn token y opens two places: one below y, worth v R(y), and
    one beside it, worth v (1 - R(y)). Values therefore never increase, and the order of drawing is
    the order of worth.

    Siblings are drawn without replacement. At temperature 0, and under `Match`, where the noise is
    known, they are taken in a fixed order, and the chance that the token is kept counts instead.

    It needs one forward for each node that gets children; `DySpecLevels` needs one for each depth.
    """

    draw = Draw.WITHOUT_REPLACEMENT

    @property
    def breadth(self) -> int:
        """The largest number of children of one node."""
        return MOST_SIBLINGS

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree, one node at a time."""
        yield [-1]
        heap: list[tuple[float, int, int, int]] = []
        _open(heap, builder, -1, 0)
        while heap and len(builder) < builder.nodes:
            _, _, parent, rank = heapq.heappop(heap)
            node = builder.add(parent, rank)
            _open(heap, builder, parent, rank + 1)
            if len(builder) < builder.nodes and builder.may_grow(node):
                yield [node]
                _open(heap, builder, node, 0)


def _open(
    heap: list[tuple[float, int, int, int]], builder: TreeBuilder, parent: int, rank: int
) -> None:
    """Add a place to the heap; among equal places, the older one comes first."""
    if not builder.may_grow(parent) or rank >= builder.candidates(parent):
        return
    worth = builder.place(parent, rank)
    if worth >= HOPELESS:
        heapq.heappush(heap, (-worth, len(builder), parent, rank))


METHOD = Method(
    name="dyspec-nodes",
    cls=DySpec,
    summary="the node most likely to be verified next; one draft forward for each node",
    paper=Paper("DySpec", "2410.11744"),
)
