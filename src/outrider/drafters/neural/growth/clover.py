"""Clover: few nodes, of which each level takes its share by joint probability."""

from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE, Range
from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.tree_builder import HOPELESS, TreeBuilder
from outrider.protocols.method import Method, Paper

_SHARE = Range(0.0, 1.0, above=True, hint="Give a share above 0 and at most 1")
_RATIO = Range(0.0, 1.0, hint="Give a ratio from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clover:
    """The candidate policy of Clover (Xiao et al. 2024, arXiv 2405.00263), for small budgets.

    In large batches a request can verify few tokens, about 4. At each node the candidates are the
    best tokens up to the cumulative probability `top_p`, and at least one; those with less than
    `least` times the probability of the best one are dropped. Of all candidates of a level those
    with the largest joint probability are kept, as many as the budget still allows, and their
    number is subtracted from the budget. So a level that is sure costs one node, and the others go
    deeper.

    The nodes are a function of the distribution and are judged as deterministic picks.

    Attributes:
        top_p: the largest sum of the probabilities of siblings, if there is more than one.
        least: smallest probability of a candidate, relative to that of its best sibling.
        width: largest number of children of one node.

    Raises:
        OptionError: a share or a ratio outside 0 to 1, or a width below 1.
    """

    top_p: float = 0.95
    least: float = 0.25
    width: int = 20

    draw = Draw.DETERMINISTIC

    def __post_init__(self) -> None:
        _SHARE.check("top_p", self.top_p)
        _RATIO.check("least", self.least)
        AT_LEAST_ONE.check("width", self.width)

    @property
    def breadth(self) -> int:
        """The largest number of children of one node."""
        return self.width

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree level by level until the budget is spent."""
        level, left = [-1], builder.nodes
        while level and left > 0:
            yield level
            found = [(node, rank) for node in level for rank in range(self._count(builder, node))]
            # the sort is stable, so the first of equal siblings is kept
            best = sorted(found, key=lambda place: -builder.place(*place))[:left]
            left -= len(best)
            level = [builder.add(*place) for place in sorted(best)]
            level = [node for node in level if builder.may_grow(node)]

    def _count(self, builder: TreeBuilder, node: int) -> int:
        """Return how many of the best tokens after a node are candidates."""
        following = builder.next_tokens.get(node)
        if following is None or not builder.may_grow(node):
            return 0
        chances, spent = following.chances[: self.width], following.spent[: self.width]
        for rank, chance in enumerate(chances):
            beyond = rank > 0 and (
                spent[rank] + chance > self.top_p or chance < self.least * chances[0]
            )
            if beyond or builder.place(node, rank) < HOPELESS:
                return rank
        return len(chances)


METHOD = Method(
    name="clover",
    cls=Clover,
    summary="a small budget of nodes, shared out level by level by joint probability",
    paper=Paper("Clover", "2405.00263"),
)
