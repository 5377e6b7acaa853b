"""Every drafter of the catalogue, and combinations of them, over a family of models.

Each entry makes its drafter anew, so that no test sees what another one taught a memory.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from outrider.core.expression import Expression
from outrider.drafters import Bypass, Fallback, Lookup, ModelDrafter, Qualified
from outrider.drafters.combine.merge import Merge
from outrider.drafters.combine.switch import Switch
from outrider.drafters.copying.copyspec import CopySpec
from outrider.drafters.copying.rest import Rest
from outrider.drafters.copying.sam import Sam
from outrider.drafters.copying.successors import Successors
from outrider.drafters.copying.suffix import Suffix
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod
from outrider.drafters.neural.growth import DySpecLevels, Eagle2, Growth, IidTree, RsdC, RsdS, TopK
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
from outrider.strategy.catalogue import drafter_records, names, record
from outrider.strategy.making import make_drafter, with_priors
from tests.exactness.setups.rigs import Family, tabular_family
from tests.strategy.named import OF_FILES, OF_HEADS

DOCUMENTS = [(1, 2, 3, 4, 5, 6, 0, 1, 2), (5, 5, 5, 6, 1, 3, 2, 4), (2, 4, 6, 1, 3, 5, 2, 4, 6)]

NARROW: dict[str, Growth] = {
    "top-k": TopK((3, 2, 1)),
    "eagle2": Eagle2(width=3),
    "dyspec": DySpecLevels(threshold=0.05),
    "rsd-c": RsdC((2, 2, 1)),
    "rsd-s": RsdS(width=3),
    "iid": IidTree(samples=3),
}
"""Growths with settings for a vocabulary of seven tokens."""


LONG_DOCUMENTS = [tuple(np.random.default_rng(0).integers(0, 7, 3000).tolist())]
"""Every short sequence of tokens stands in it."""


def _growths() -> dict[str, Growth]:
    """Every growth of the catalogue."""
    found: dict[str, Growth] = {}
    for name in names("growth"):
        growth = NARROW.get(name) or record("growth", name).build({})
        assert isinstance(growth, Growth)
        found[name] = growth
    return found


GROWTHS = _growths()
SMALL_TREE = FixedTree(depth=4, nodes=9)


def given(family: Family, one: DrafterMethod) -> Given:
    """What a drafter of the catalogue is made from: models, and a small datastore."""
    store = one.store.build(LONG_DOCUMENTS) if one.needs_store and one.store else None
    below = (family.qualifier, family.draft)
    return with_priors(Given(target=family.target, below=below, datastore=store))


def named(family: Family) -> dict[str, Callable[[], Drafter]]:
    """Every drafter of the catalogue but those that read layers or hidden states of the target:
    tables have none (`tests/exactness/test_self_speculation.py` and `test_heads.py`)."""

    def maker(one: DrafterMethod) -> Callable[[], Drafter]:
        asked = Expression.parse(one.example)
        return lambda: make_drafter(asked, given(family, one))

    found = [
        one for one in drafter_records() if drafts(one) and one.name not in (*OF_HEADS, *OF_FILES)
    ]
    return {one.name: maker(one) for one in found if not one.layered}


def drafts(one: DrafterMethod) -> bool:
    """Whether it proposes anything."""
    return one.name != "none"


def variants() -> dict[str, Callable[[], Drafter]]:
    """Drafters without a model, with other settings than those by name."""
    return {
        "lookup-first": lambda: Lookup(max_ngram=2, min_ngram=1, occurrence="first"),
        "copyspec-short": lambda: CopySpec(match_length=2),
        "sam-levels": lambda: Sam(levels=(1, 2, 4)),
        "sam-static": lambda: Sam(static=FrozenAutomaton.build(DOCUMENTS), handicap=0),
        "successors-eager": lambda: Successors(own=2, shared=1, least=0.0),
        "suffix-chain": lambda: Suffix(shape="chain", memory=None),
        "aded-quick": lambda: Aded(search=Puct(iterations=15)),
        "rest-short": lambda: Rest(corpus=Corpus.build(DOCUMENTS), shortest=1, levels=(1, 2)),
        "lookahead-short": lambda: Lookahead(ngram=3, window=3),
    }


def free() -> dict[str, Callable[[], Drafter]]:
    """Drafters without a model."""
    known = {one.name for one in drafter_records() if one.free}
    made = named(tabular_family())
    return {name: make for name, make in made.items() if name in known} | variants()


def trees(family: Family) -> dict[str, Callable[[], Drafter]]:
    """Trees that a model grows, one for each growth."""
    return {
        f"tree-{name}": lambda growth=growth: TreeDrafter(model=family.draft, growth=growth)
        for name, growth in GROWTHS.items()
    }


def combined(family: Family) -> dict[str, Callable[[], Drafter]]:
    """Combinations, and free drafters and trees below a qualifier."""
    model = ModelDrafter(model=family.draft)
    grown = TreeDrafter(model=family.draft, growth=Eagle2(width=3))
    nest = Qualified(drafter=model, qualifier=family.qualifier, policy=FixedLength(3))
    copies = Lookup(max_ngram=3, min_ngram=1)
    return {
        "switch-match": lambda: Switch(first=Sam(), second=TokenRecycling(), at_least=3),
        "switch-score": lambda: Switch(first=Suffix(), second=model, at_least=1.0, by="score"),
        "merge-copies": lambda: Merge(first=copies, second=grown),
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
    return named(family) | variants() | trees(family) | combined(family)
