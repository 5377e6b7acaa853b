"""Trees that a draft model grows, by name."""

from outrider.core.errors import OptionError, nearest
from outrider.drafters.neural import growth
from outrider.drafters.neural.tree import TreeDrafter
from outrider.policies import Source
from outrider.protocols import LanguageModel
from outrider.strategy.catalogue import TREES
from outrider.strategy.parts import MOST_NODES, Parts, even_reach

_FIRST, _DEPTH = 0.6, 5
"""Chance of a tree's first node, until it is measured; levels of a tree."""


def check_tree(name: str) -> None:
    """Raise `OptionError` for an unknown tree."""
    if name not in TREES:
        raise OptionError(f"unknown tree {name!r}", hint=nearest(name, TREES))


def tree_parts(name: str, draft: LanguageModel, seconds: float = 0.0) -> Parts:
    """The drafter that grows these trees with `draft`, which takes `seconds` for a level."""
    kind = TREES[name]
    drafter = TreeDrafter(model=draft, growth=getattr(growth, kind.growth)(**kind.options))
    source = Source(
        name=drafter.origin,
        reach=even_reach(_FIRST),
        longest=MOST_NODES,
        depth=_DEPTH,
        fixed=_DEPTH * seconds,
    )
    return Parts(drafter=drafter, sources=(source,), tree=True)
