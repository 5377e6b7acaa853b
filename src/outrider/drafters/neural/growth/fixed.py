"""Trees of a fixed shape: so many children at each depth."""

from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.types import Draw
from outrider.drafters.neural.growth.growing import Growing
from outrider.drafters.neural.growth.plot import Plot


@dataclass(frozen=True, slots=True)
class TopK:
    """`widths[d]` children under each node of depth d: the likeliest.

    Under `Match` likeliest by the noise of the target's choices (`Picking.COUPLED`). Under a rule
    that reads laws the plain top of the law, judged as a deterministic pick.

    Raises:
        OptionError: no widths, or one below 1.
    """

    widths: tuple[int, ...] = (4, 2, 2, 1, 1, 1)

    draw = Draw.DETERMINISTIC

    def __post_init__(self) -> None:
        check_widths(self.widths)

    @property
    def breadth(self) -> int:
        """The largest width."""
        return max(self.widths)

    def grow(self, plot: Plot) -> Growing:
        """Level by level."""
        return by_levels(plot, self.widths)


@dataclass(frozen=True, slots=True)
class RsdC:
    """RSD-C: `branching[d]` children under each node of depth d, drawn without replacement (Jeon
    et al. 2024, arXiv 2402.14160; its b_1 .. b_L are `branching`).

    A sample without replacement is the top of log q + Gumbel noise. Under `Match` the noise is that
    of the target's choices, and the tree is that of `TopK`; under `RecursiveRejection` each node
    has its own.

    Raises:
        OptionError: no numbers, or one below 1.
    """

    branching: tuple[int, ...] = (2, 2, 2, 1, 1)

    draw = Draw.WITHOUT_REPLACEMENT

    def __post_init__(self) -> None:
        check_widths(self.branching)

    @property
    def breadth(self) -> int:
        """The largest number of children."""
        return max(self.branching)

    def grow(self, plot: Plot) -> Growing:
        """Level by level."""
        return by_levels(plot, self.branching)


def by_levels(plot: Plot, widths: tuple[int, ...]) -> Growing:
    """Give every node of depth d `widths[d]` children."""
    level = [-1]
    for width in widths:
        yield level
        level = [child for node in level for child in plot.add_children(node, width)]
        plot.prune()
        level = [node for node in level if plot.may_grow(node)]


def check_widths(widths: tuple[int, ...]) -> None:
    """Raise `OptionError` unless each depth has at least one child."""
    if not widths or min(widths) < 1:
        raise OptionError(
            f"a tree with {widths!r} children by depth", hint="Give numbers from 1, as (4, 2, 1)"
        )
