"""DySpec: the tree grows where the next draw is most likely to be tried."""

import heapq
from dataclasses import dataclass

from outrider.core.checks import Range
from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import Growing
from outrider.drafters.neural.growth.plot import HOPELESS, Plot

MOST_SIBLINGS = 64
"""Most children of one node."""


@dataclass(frozen=True, slots=True)
class DySpec:
    """Always draw where it is most likely to matter (Xiong et al. 2024, arXiv 2410.11744).

    A *place* under node u is worth the chance v that the verifier comes to try it: u accepted and
    u's children so far refused. The place with the largest v is drawn next; with R what is left of
    the law there, the token y opens two places, one below y worth v R(y) and one beside it worth
    v (1 - R(y)). So values never rise, and the order of drawing is the order of worth.

    Siblings are drawn without replacement. At temperature 0, and under `Match`, where the noise is
    known, they are taken in a fixed order, and what counts is the chance that the token is kept.

    Needs one reading of the model for each node that gets children; `DySpecLevels` needs one for
    each depth.
    """

    draw = Draw.WITHOUT_REPLACEMENT

    @property
    def breadth(self) -> int:
        """Most siblings."""
        return MOST_SIBLINGS

    def grow(self, plot: Plot) -> Growing:
        """One node at a time."""
        yield [-1]
        heap: list[tuple[float, int, int, int]] = []
        _open(heap, plot, -1, 0)
        while heap and len(plot) < plot.nodes:
            _, _, parent, rank = heapq.heappop(heap)
            node = plot.add(parent, rank)
            _open(heap, plot, parent, rank + 1)
            if len(plot) < plot.nodes and plot.may_grow(node):
                yield [node]
                _open(heap, plot, node, 0)


def _open(heap: list[tuple[float, int, int, int]], plot: Plot, parent: int, rank: int) -> None:
    """Add a place to the heap; of equal ones the elder comes first."""
    if not plot.may_grow(parent) or rank >= plot.candidates(parent):
        return
    worth = plot.place(parent, rank)
    if worth >= HOPELESS:
        heapq.heappush(heap, (-worth, len(plot), parent, rank))


_THRESHOLD = Range(0.0, 1.0, above=True, optional=True, hint="Give a chance above 0, such as 0.05")


@dataclass(frozen=True, slots=True, kw_only=True)
class DySpecLevels:
    """DySpec's threshold form: level by level, every place worth at least `threshold`.

    As many readings as levels. The paper's threshold for a tree of n nodes is about 1 / n.

    Attributes:
        threshold: least chance of being tried; None is one in the number of nodes allowed.

    Raises:
        OptionError: a threshold outside 0 to 1.
    """

    threshold: float | None = None

    draw = Draw.WITHOUT_REPLACEMENT

    def __post_init__(self) -> None:
        _THRESHOLD.check("threshold", self.threshold)

    @property
    def breadth(self) -> int:
        """Most siblings."""
        return MOST_SIBLINGS

    def grow(self, plot: Plot) -> Growing:
        """Level by level."""
        least = max(1.0 / plot.nodes if self.threshold is None else self.threshold, HOPELESS)
        level = [-1]
        while level:
            yield level
            found: list[int] = []
            for parent in level:
                for rank in range(plot.candidates(parent) if plot.may_grow(parent) else 0):
                    if plot.tried(parent, rank) < least:
                        break
                    found.append(plot.add(parent, rank))
            plot.prune()
            level = [node for node in found if plot.may_grow(node)]
