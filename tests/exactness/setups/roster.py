"""Every drafter, combinator and tree shape, over a family of models: the rows of the matrix.

Each entry makes its drafter anew, so that no test sees what another one taught a memory.
"""

from collections.abc import Callable
from dataclasses import replace

from outrider.drafters import Bypass, Fallback, Lookup, ModelDrafter, Qualified
from outrider.drafters.combine.merge import Merge
from outrider.drafters.combine.switch import Switch
from outrider.drafters.copying.copyspec import CopySpec
from outrider.drafters.copying.iad import Aggressive
from outrider.drafters.copying.rest import Rest
from outrider.drafters.copying.sam import Sam
from outrider.drafters.copying.suffix import Suffix
from outrider.drafters.neural.growth import (
    DySpec,
    DySpecLevels,
    Eagle2,
    Growth,
    IidTree,
    RsdC,
    RsdS,
    TopK,
)
from outrider.drafters.neural.tree import TreeDrafter
from outrider.drafters.statistics.aded import Aded
from outrider.drafters.statistics.lookahead import Lookahead
from outrider.drafters.statistics.puct import Puct
from outrider.drafters.statistics.recycling import TokenRecycling
from outrider.drafters.statistics.stand import Stand
from outrider.memories.corpus import Corpus
from outrider.memories.frozen import FrozenAutomaton
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter
from tests.exactness.setups.rigs import Family

DOCUMENTS = [(1, 2, 3, 4, 5, 6, 0, 1, 2), (5, 5, 5, 6, 1, 3, 2, 4), (2, 4, 6, 1, 3, 5, 2, 4, 6)]

GROWTHS: dict[str, Growth] = {
    "top-k": TopK((3, 2, 1)),
    "eagle2": Eagle2(width=3),
    "dyspec": DySpec(),
    "dyspec-levels": DySpecLevels(threshold=0.05),
    "rsd-c": RsdC((2, 2, 1)),
    "rsd-s": RsdS(width=3),
    "iid": IidTree(samples=3),
}

SMALL_TREE = FixedTree(depth=4, nodes=9)


def free() -> dict[str, Callable[[], Drafter]]:
    """Drafters without a model."""
    return {
        "lookup": lambda: Lookup(max_ngram=3, min_ngram=1),
        "lookup-first": lambda: Lookup(max_ngram=2, min_ngram=1, occurrence="first"),
        "copyspec": lambda: CopySpec(match_length=2),
        "sam": lambda: Sam(levels=(1, 2, 4)),
        "sam-static": lambda: Sam(static=FrozenAutomaton.build(DOCUMENTS), handicap=0),
        "suffix": lambda: Suffix(),
        "suffix-chain": lambda: Suffix(shape="chain", memory=None),
        "recycling": lambda: TokenRecycling(),
        "aded": lambda: Aded(search=Puct(iterations=15)),
        "stand": lambda: Stand(),
        "iad": lambda: Aggressive(),
        "rest": lambda: Rest(corpus=Corpus.build(DOCUMENTS), shortest=1, levels=(1, 2)),
        "lookahead": lambda: Lookahead(ngram=3, window=3),
    }


def trees(family: Family) -> dict[str, Callable[[], Drafter]]:
    """Trees that a model grows, one for each growth."""
    return {
        f"tree-{name}": lambda growth=growth: TreeDrafter(model=family.draft, growth=growth)
        for name, growth in GROWTHS.items()
    }


def combined(family: Family) -> dict[str, Callable[[], Drafter]]:
    """Combinators, and free drafters and trees below a qualifier."""
    model = ModelDrafter(model=family.draft)
    grown = TreeDrafter(model=family.draft, growth=Eagle2(width=3))
    nest = Qualified(drafter=model, qualifier=family.qualifier, policy=FixedLength(3))
    copies = Lookup(max_ngram=3, min_ngram=1)
    return {
        "switch": lambda: Switch(first=Sam(), second=TokenRecycling(), at_least=3),
        "switch-score": lambda: Switch(first=Suffix(), second=model, at_least=1.0, by="score"),
        "merge": lambda: Merge(first=copies, second=grown),
        "merge-rows": lambda: Merge(first=TokenRecycling(), second=Lookahead(ngram=3, window=2)),
        "fallback-many": lambda: Fallback(
            first=CopySpec(), second=Fallback(first=Stand(), second=grown)
        ),
        "fallback-bypass": lambda: Fallback(first=copies, second=Bypass(qualified=nest)),
        "recycling-qualified": lambda: replace(nest, drafter=TokenRecycling(), policy=SMALL_TREE),
        "tree-qualified": lambda: replace(nest, drafter=grown, policy=SMALL_TREE),
        "merge-qualified": lambda: replace(
            nest, drafter=Merge(first=Sam(), second=grown), policy=SMALL_TREE
        ),
        "stand-qualified": lambda: replace(nest, drafter=Stand(), policy=SMALL_TREE),
    }


def roster(family: Family) -> dict[str, Callable[[], Drafter]]:
    """All of them."""
    return free() | trees(family) | combined(family)
