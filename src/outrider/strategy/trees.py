"""Trees that a draft model grows, by name."""

from outrider.core.errors import OptionError, nearest
from outrider.drafters.neural.growth import DySpecLevels, Eagle2, Growth, RsdC, RsdS, TopK
from outrider.drafters.neural.tree import TreeDrafter
from outrider.policies import Source
from outrider.protocols import LanguageModel
from outrider.strategy.parts import MOST_NODES, Parts, even_reach

TREES: dict[str, str] = {
    "top-k": "the best children of each node, in a fixed shape",
    "eagle2": "the likeliest paths of all, re-ranked (EAGLE-2)",
    "dyspec": "whatever is most likely to be tried next, level by level (DySpec)",
    "rsd-c": "siblings drawn without replacement, in a fixed shape (RSD-C)",
    "rsd-s": "stochastic beam search (RSD-S)",
}

_GROWTHS: dict[str, Growth] = {
    "top-k": TopK(),
    "eagle2": Eagle2(width=4),
    "dyspec": DySpecLevels(),
    "rsd-c": RsdC(),
    "rsd-s": RsdS(),
}

_FIRST, _DEPTH = 0.6, 5
"""Chance of a tree's first node, until it is measured; levels of a tree."""


def check_tree(name: str) -> None:
    """Raise `OptionError` for an unknown tree."""
    if name not in TREES:
        raise OptionError(f"unknown tree {name!r}", hint=nearest(name, TREES))


def tree_parts(name: str, draft: LanguageModel, seconds: float = 0.0) -> Parts:
    """The drafter that grows these trees with `draft`, which takes `seconds` for a level."""
    drafter = TreeDrafter(model=draft, growth=_GROWTHS[name])
    source = Source(
        name=drafter.origin,
        reach=even_reach(_FIRST),
        longest=MOST_NODES,
        depth=_DEPTH,
        fixed=_DEPTH * seconds,
    )
    return Parts(drafter=drafter, sources=(source,), tree=True)
