"""Trees of a fixed shape, grown level by level."""

from outrider.core.errors import OptionError
from outrider.drafters.neural.growth.growing import GrowthSteps
from outrider.drafters.neural.growth.tree_builder import TreeBuilder


def by_levels(builder: TreeBuilder, widths: tuple[int, ...]) -> GrowthSteps:
    """Add `widths[d]` children to every node of depth d."""
    level = [-1]
    for width in widths:
        yield level
        level = [child for node in level for child in builder.add_children(node, width)]
        builder.prune()
        level = [node for node in level if builder.may_grow(node)]


def check_widths(widths: tuple[int, ...]) -> None:
    """Raise `OptionError` unless each depth has at least one child."""
    if not widths or min(widths) < 1:
        raise OptionError(
            f"the widths of a tree are {widths!r}", hint="Give numbers from 1, such as (4, 2, 1)"
        )
