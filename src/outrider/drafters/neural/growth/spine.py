"""A chain with siblings beside its tokens: the lower the drafter's confidence, the more
siblings."""

from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.tree_builder import TreeBuilder
from outrider.protocols.method import Method, Paper

_BOUNDS = (0.95, 0.8, 0.5)


@dataclass(frozen=True, slots=True)
class Spine:
    """The tree of SWIFT (Xia et al. 2024, arXiv 2410.06916): one chain of first picks. The number
    of siblings of each token depends on the probability of the drafter's best token.

    It needs one forward for each token of the chain, as without siblings. The number of children
    never depends on which tokens were drawn.

    Attributes:
        widths: numbers of children if the best token has a probability above 0.95, above 0.8, above
            0.5, and below, at temperature 0.
        sampled: the same at other temperatures.

    Raises:
        OptionError: not four numbers, or one below 1.
    """

    widths: tuple[int, int, int, int] = (3, 5, 8, 10)
    sampled: tuple[int, int, int, int] = (1, 3, 5, 10)

    draw = Draw.WITHOUT_REPLACEMENT

    def __post_init__(self) -> None:
        for name in ("widths", "sampled"):
            given = getattr(self, name)
            if len(given) != len(_BOUNDS) + 1 or min(given) < 1:
                raise OptionError(f"{name} is {given!r}", hint="Give four numbers of at least 1")

    @property
    def breadth(self) -> int:
        """The largest number of children of one node."""
        return max(*self.widths, *self.sampled)

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree along its chain."""
        widths = self.widths if builder.sampler.params.temperature == 0 else self.sampled
        node = -1
        while True:
            yield [node]
            following = builder.next_tokens[node]
            if following is None:
                return
            best = float(following.support.scores.max().exp())
            children = builder.add_children(node, widths[sum(best <= bound for bound in _BOUNDS)])
            if not children:
                return
            builder.prune()
            node = children[0]
            if not builder.may_grow(node):
                return


METHOD = Method(
    name="spine",
    cls=Spine,
    summary="one chain, with more siblings where the draft model is less certain",
    paper=Paper("SWIFT", "2410.06916"),
)
