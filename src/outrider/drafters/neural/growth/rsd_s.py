"""RSD-S: stochastic beam search, which does not draw unlikely branches."""

import math
from dataclasses import dataclass

from outrider.core.checks import AT_LEAST_ONE
from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.next_tokens import Picking
from outrider.drafters.neural.growth.tree_builder import HOPELESS, TreeBuilder
from outrider.protocols.method import Method, Paper


@dataclass(frozen=True, slots=True)
class RsdS:
    """RSD-S: keeps the `width` nodes of each level with the largest perturbed value, so that a
    level is a sample of paths without replacement (Jeon et al. 2024, arXiv 2402.14160, after Kool
    et al. 2019; W is `width`, the levels are the budget's depth).

    A beam node has phi, the log-probability of its path, and a value G. Its children's g = phi +
    log q + Gumbel noise are shifted so that the largest of them equals G: G' = -log(exp(-G) -
    exp(-max g) + exp(-g)). Siblings are in the order of G'. Pruning by value does not change the
    distribution of the kept nodes, since the next token in that order does not depend on the
    values. At temperature 0 there is no noise, and this is beam search.

    Raises:
        OptionError: a width below 1.
    """

    width: int = 4

    draw = Draw.WITHOUT_REPLACEMENT

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("width", self.width)

    @property
    def breadth(self) -> int:
        """The beam width, because all nodes of a level can have the same parent."""
        return self.width

    def grow(self, builder: TreeBuilder) -> GrowthSteps:
        """Grow one tree level by level, from the nodes of the beam only."""
        beam = [_Beam(-1, 0.0, 0.0)]
        while beam:
            yield [one.node for one in beam]
            found = [child for one in beam for child in _children(builder, one, self.width)]
            found.sort(key=lambda child: -child.value)
            beam = [
                _Beam(builder.add(child.parent, child.rank), child.phi, child.value)
                for child in found[: self.width]
            ]
            builder.prune()
            beam = [one for one in beam if builder.may_grow(one.node)]


@dataclass(frozen=True, slots=True)
class _Beam:
    node: int
    phi: float
    value: float


@dataclass(frozen=True, slots=True)
class _Child:
    parent: int
    rank: int
    phi: float
    value: float


def _children(builder: TreeBuilder, one: _Beam, width: int) -> list[_Child]:
    """Return the children of one beam node with their values, in the order of siblings."""
    following = builder.next_tokens.get(one.node)
    if following is None or not builder.may_grow(one.node):
        return []
    found: list[_Child] = []
    largest = one.phi + float(following.keys[0])
    for rank in range(min(width, len(following.tokens))):
        if builder.place(one.node, rank) < HOPELESS:
            break
        phi = one.phi + float(following.logs[rank])
        g = one.phi + float(following.keys[rank])
        value = g if builder.picking is Picking.BEST else shifted(g, largest, one.value)
        found.append(_Child(one.node, rank, phi, value))
    return found


def shifted(g: float, largest: float, value: float) -> float:
    """Return -log(exp(-value) - exp(-largest) + exp(-g)), for g up to `largest`, without
    overflow.
    """
    missing = -math.expm1(g - largest)
    if missing <= 0.0:
        return value
    v = value - g + math.log(missing)
    return value - max(v, 0.0) - math.log1p(math.exp(-abs(v)))


METHOD = Method(
    name="rsd-s",
    cls=RsdS,
    summary="stochastic beam search",
    paper=Paper("RSD", "2402.14160"),
)
