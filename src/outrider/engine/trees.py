"""Trees that a draft model grows, by name."""

from outrider.engine.free import Parts
from outrider.errors import OptionError, nearest
from outrider.protocols import LanguageModel

TREES: dict[str, str] = {
    "top-k": "the best children of each node, in a fixed shape",
    "eagle2": "the likeliest paths of all, re-ranked (EAGLE-2)",
    "dyspec": "the next most likely slot, one after the other (DySpec, level by level)",
    "rsd-c": "siblings drawn without replacement, in a fixed shape (RSD-C)",
    "rsd-s": "stochastic beam search (RSD-S)",
}


def check_tree(name: str) -> None:
    """Raise `OptionError` for an unknown tree."""
    if name not in TREES:
        raise OptionError(f"unknown tree {name!r}", hint=nearest(name, TREES))


def tree_parts(name: str, draft: LanguageModel, *, rejecting: bool) -> Parts:
    """The drafter that grows these trees with `draft`."""
    raise NotImplementedError
