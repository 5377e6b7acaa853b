"""Drafters that need no model beside the target: how each is made, and what is believed of it.

What is believed (how often copied tokens are kept, how often a node of a tree) only sets where
`ExpectedGain` begins; a few rounds tell more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from outrider.drafters.copying.copyspec import CopySpec
from outrider.drafters.copying.iad import Aggressive
from outrider.drafters.copying.lookup import Lookup
from outrider.drafters.copying.rest import Rest
from outrider.drafters.copying.sam import Sam
from outrider.drafters.copying.suffix import Suffix
from outrider.drafters.layers.del_ import DynamicExit
from outrider.drafters.layers.own_layers import OwnLayers
from outrider.drafters.layers.skip import EvenSkip
from outrider.drafters.layers.swift import Swift
from outrider.drafters.statistics.aded import Aded
from outrider.drafters.statistics.lookahead import Lookahead
from outrider.drafters.statistics.recycling import TokenRecycling
from outrider.drafters.statistics.stand import Stand
from outrider.drafters.statistics.template import CHANCES, Template
from outrider.policies import FixedTree, Source
from outrider.protocols import Drafter, DraftPolicy, LanguageModel

LOOKUP = Lookup(min_ngram=1)
"""Guesses after a single token too: the policy asks for them only where they pay."""

LOOKUP_CHANCES = {1: 0.2, 2: 0.35, 3: 0.45, 4: 0.55, 5: 0.7}
"""By length of the match, how often the first copied token is kept (texts of `tiny`)."""

_COPY_GOES_ON = 0.8
"""How often a later one is."""

_LONGEST_COPY = 32
_COPY_FIXED, _TREE_FIXED, _EACH = 2e-5, 5e-5, 1e-6
"""What a copy and a tree take beside their tokens, and a token, in seconds, until measured."""

MOST_NODES = 64
"""Nodes of the largest tree."""
_OWN_SHARE, _MOST_OWN = 0.55, 12
"""Of a forward of the target, what a token takes by half its layers and the head; longest draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A drafter by name, ready to be put into a strategy.

    Attributes:
        drafter: the drafter.
        sources: what is believed of the origins of its drafts.
        tree: whether it drafts trees.
        policy: what it needs where lengths adapt, if not `ExpectedGain` over `sources`.
    """

    drafter: Drafter
    sources: tuple[Source, ...] = ()
    tree: bool = False
    policy: DraftPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What drafters are made from.

    Attributes:
        target: the model they draft for.
        datastore: an opened one, for those that retrieve.
        forward_seconds: of one row of the target, where that was measured.
    """

    target: LanguageModel
    datastore: Any = None
    forward_seconds: float = 0.0


def free_parts(name: str, given: Given) -> Parts:
    """The drafter of this name. Raises `OptionError` where something that it needs is missing."""
    return _BUILDERS[name](given)


def lookup_sources(lookup: Lookup = LOOKUP) -> tuple[Source, ...]:
    """What is believed of copies, by the length of their match."""
    return tuple(
        _copies(origin, LOOKUP_CHANCES[n]) for n, origin in lookup.origins_by_match.items()
    )


def recycling_source(drafter: TokenRecycling) -> Source:
    """What is believed of recycled rows."""
    return _tree(drafter.name, template_reach(drafter.template))


def template_reach(template: Template) -> tuple[float, ...]:
    """By its place in a template, the chance that a node is kept: a product of chances by rank."""
    chances = [float(np.prod([CHANCES[rank] for rank in path])) for path in template.paths]
    return tuple(chances[:MOST_NODES])


def even_reach(first: float) -> tuple[float, ...]:
    """The chance of each node of a tree of which nothing is known: falling like 1 / place."""
    return tuple(first / (place + 1) for place in range(MOST_NODES))


def _tree(name: str, reach: tuple[float, ...], *, lucky: bool = False) -> Source:
    return Source(
        name=name, reach=reach, longest=MOST_NODES, lucky=lucky, fixed=_TREE_FIXED, seconds=_EACH
    )


def _copies(name: str, accept: float, longest: int = _LONGEST_COPY) -> Source:
    return Source(
        name=name,
        accept=accept,
        goes_on=_COPY_GOES_ON,
        longest=longest,
        lucky=True,
        fixed=_COPY_FIXED,
        seconds=_EACH,
    )


def _levels(
    origins: Mapping[int, str], chances: Callable[[int], float], *, tree: bool
) -> tuple[Source, ...]:
    """What is believed of copies that are booked by the length of their match."""
    if tree:
        return tuple(_tree(o, even_reach(chances(n)), lucky=True) for n, o in origins.items())
    return tuple(_copies(origin, chances(n)) for n, origin in origins.items())


def matched(length: int) -> float:
    """How often copied tokens are kept, by the length of the match."""
    return LOOKUP_CHANCES[min(length, max(LOOKUP_CHANCES))]


def _lookup(given: Given) -> Parts:
    return Parts(drafter=LOOKUP, sources=lookup_sources())


def _copyspec(given: Given) -> Parts:
    drafter = CopySpec(copy_length=_LONGEST_COPY)
    return Parts(drafter=drafter, sources=(_copies(drafter.name, matched(3)),))


def _sam(given: Given) -> Parts:
    drafter = Sam(static=given.datastore)
    return Parts(drafter=drafter, sources=_levels(drafter.origins_by_match, matched, tree=False))


def _suffix(given: Given) -> Parts:
    drafter = Suffix(factor=4.0)  # 1 in the paper; 4 had more accepted on dialogues and on prose
    return Parts(
        drafter=drafter, sources=_levels(drafter.origins_by_match, matched, tree=True), tree=True
    )


def _recycling(given: Given) -> Parts:
    drafter = TokenRecycling()
    return Parts(drafter=drafter, sources=(recycling_source(drafter),), tree=True)


def _aded(given: Given) -> Parts:
    drafter = Aded()
    return Parts(drafter=drafter, sources=(_tree(drafter.name, even_reach(0.3)),), tree=True)


def _stand(given: Given) -> Parts:
    drafter = Stand()
    reach = template_reach(drafter.template)
    return Parts(drafter=drafter, sources=(_tree(drafter.name, reach, lucky=True),), tree=True)


def _iad(given: Given) -> Parts:
    drafter = Aggressive()
    return Parts(drafter=drafter, sources=(_copies(drafter.name, 0.6),))


def _rest(given: Given) -> Parts:
    drafter = Rest(corpus=given.datastore)
    return Parts(
        drafter=drafter, sources=_levels(drafter.origins_by_match, matched, tree=True), tree=True
    )


def _lookahead(given: Given) -> Parts:
    """Its window has to be read every round, so its size stays as it is."""
    drafter = Lookahead(ngram=4, window=4)
    return Parts(drafter=drafter, tree=True, policy=FixedTree(depth=8, nodes=24))


def _own_layers(drafter: OwnLayers, given: Given) -> Parts:
    """`OwnLayers` draft chains, at about half the target's cost a token."""
    seconds = _OWN_SHARE * given.forward_seconds
    source = Source(name=drafter.name, seconds=seconds, accept=0.5, longest=_MOST_OWN)
    return Parts(drafter=drafter, sources=(source,))


def _swift(given: Given) -> Parts:
    return _own_layers(Swift(model=given.target), given)


def _del(given: Given) -> Parts:
    return _own_layers(DynamicExit(model=given.target), given)


def _skip(given: Given) -> Parts:
    return _own_layers(EvenSkip(model=given.target), given)


_BUILDERS: dict[str, Callable[[Given], Parts]] = {
    "lookup": _lookup,
    "copyspec": _copyspec,
    "sam": _sam,
    "suffix": _suffix,
    "recycling": _recycling,
    "aded": _aded,
    "stand": _stand,
    "iad": _iad,
    "rest": _rest,
    "lookahead": _lookahead,
    "swift": _swift,
    "del": _del,
    "skip": _skip,
}
