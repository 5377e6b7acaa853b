"""Trees of a fixed shape, grown level by level."""

from outrider.core.errors import OptionError
from outrider.drafters.neural.growth.growing import Growing
from outrider.drafters.neural.growth.plot import Plot


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
