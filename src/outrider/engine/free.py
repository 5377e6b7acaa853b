"""Drafters that need no model beside the target: how each is made, and what is believed of it.

What is believed (how often copied tokens are kept, how often a node of a tree) only sets where
`ExpectedGain` begins; a few rounds tell more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from outrider.drafters.aded import Aded
from outrider.drafters.aggressive import Aggressive
from outrider.drafters.copyspec import CopySpec
from outrider.drafters.lookup import Lookup
from outrider.drafters.recycling import TokenRecycling
from outrider.drafters.stand import Stand
from outrider.drafters.template import CHANCES, Template
from outrider.policies import Source
from outrider.protocols import Drafter, DraftPolicy, LanguageModel

LOOKUP = Lookup(min_ngram=1)
"""Guesses after a single token too: the policy asks for them only where they pay."""

LOOKUP_CHANCES = {1: 0.25, 2: 0.45, 3: 0.55, 4: 0.7, 5: 0.85}
"""By length of the match, how often copied tokens were kept (greedy and sampled text of `tiny`)."""

_LONGEST_COPY = 32
_COPY = {"fixed": 2e-5, "seconds": 1e-6}
"""What a copy takes, in seconds, until it is measured."""

_TREE = {"fixed": 5e-5, "seconds": 1e-6}
_MOST_NODES = 64


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


Builder = Callable[[LanguageModel, Any], Parts]


def free_parts(name: str, target: LanguageModel, datastore: Any = None) -> Parts:
    """The drafter of this name over `target`; `datastore` is an opened one, where it reads one.

    Raises `OptionError` where something that it needs is missing.
    """
    return _BUILDERS[name](target, datastore)


def lookup_sources(lookup: Lookup = LOOKUP) -> tuple[Source, ...]:
    """What is believed of copies, by the length of their match."""
    return tuple(
        Source(name=origin, accept=LOOKUP_CHANCES[n], longest=_LONGEST_COPY, lucky=True, **_COPY)
        for n, origin in lookup.origins.items()
    )


def recycling_source(drafter: TokenRecycling) -> Source:
    """What is believed of recycled rows."""
    return _tree(drafter.name, template_reach(drafter.template))


def template_reach(template: Template) -> tuple[float, ...]:
    """By its place in a template, the chance that a node is kept: a product of chances by rank."""
    chances = [float(np.prod([CHANCES[rank] for rank in path])) for path in template.paths]
    return tuple(chances[:_MOST_NODES])


def even_reach(first: float) -> tuple[float, ...]:
    """The chance of each node of a tree of which nothing is known: falling like 1 / place."""
    return tuple(first / (place + 1) for place in range(_MOST_NODES))


def _tree(name: str, reach: tuple[float, ...], *, lucky: bool = False) -> Source:
    return Source(name=name, reach=reach, longest=_MOST_NODES, lucky=lucky, **_TREE)


def _copies(name: str, accept: float, longest: int = _LONGEST_COPY) -> Source:
    return Source(name=name, accept=accept, longest=longest, lucky=True, **_COPY)


def _lookup(target: LanguageModel, datastore: Any) -> Parts:
    return Parts(drafter=LOOKUP, sources=lookup_sources())


def _copyspec(target: LanguageModel, datastore: Any) -> Parts:
    drafter = CopySpec(copy_length=_LONGEST_COPY)
    return Parts(drafter=drafter, sources=(_copies(drafter.name, LOOKUP_CHANCES[3]),))


def _iad(target: LanguageModel, datastore: Any) -> Parts:
    drafter = Aggressive()
    return Parts(drafter=drafter, sources=(_copies(drafter.name, 0.6),))


def _recycling(target: LanguageModel, datastore: Any) -> Parts:
    drafter = TokenRecycling()
    return Parts(drafter=drafter, sources=(recycling_source(drafter),), tree=True)


def _aded(target: LanguageModel, datastore: Any) -> Parts:
    drafter = Aded()
    return Parts(drafter=drafter, sources=(_tree(drafter.name, even_reach(0.3)),), tree=True)


def _stand(target: LanguageModel, datastore: Any) -> Parts:
    drafter = Stand()
    reach = template_reach(drafter.template)
    return Parts(drafter=drafter, sources=(_tree(drafter.name, reach, lucky=True),), tree=True)


_BUILDERS: dict[str, Builder] = {
    "lookup": _lookup,
    "copyspec": _copyspec,
    "iad": _iad,
    "recycling": _recycling,
    "aded": _aded,
    "stand": _stand,
}
