"""The record of a drafter, and what records of several drafters share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.core.errors import OptionError
from outrider.drafters.given import Given
from outrider.memories.store import Datastore
from outrider.policies import Source
from outrider.protocols import Drafter, DraftPolicy
from outrider.protocols.method import Method, Value

LOOKUP_CHANCES = {1: 0.2, 2: 0.35, 3: 0.45, 4: 0.55, 5: 0.7}
"""By length of the match, how often the first copied token is kept (texts of `tiny`)."""

_COPY_GOES_ON = 0.8
"""How often a later one is."""

LONGEST_COPY = 32
_COPY_FIXED, _TREE_FIXED, _EACH = 2e-5, 5e-5, 1e-6
"""What a copy and a tree take beside their tokens, and a token, in seconds, until measured."""

MOST_NODES = 64
"""Nodes of the largest tree."""

_UNKNOWN = 0.4
"""Chance of the first token of a drafter of which nothing is known."""

Maker = Callable[[Given, Sequence[Drafter], Mapping[str, Value]], Drafter]
Priors = Callable[[Any, Given], tuple[Source, ...]]


def unknown_priors(drafter: Drafter, given: Given) -> tuple[Source, ...]:
    """What is believed of a drafter that says nothing of itself."""
    return tuple(copies(origin, _UNKNOWN) for origin in drafter.origins)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterMethod(Method[Drafter]):
    """A drafter, described.

    Attributes:
        make: builds it from what is given, from the drafters it is made of, and from the keywords
            of its class; None calls the class with the keywords alone.
        priors: what is believed of the origins of its drafts before they were tried. It sets where
            `ExpectedGain` begins; a few rounds tell more.
        tree: whether it drafts trees.
        inner: how many drafters it is made of.
        grown: whether it is made of a growth, which may be left out: `tree(eagle2)`.
        models: how many models it needs below the target.
        policy: what it needs where the sizes of drafts adapt, if not `ExpectedGain`.
        layered: whether it drafts with layers of the target.
        store: the kind of datastore that it reads; None where it reads none.
        needs_store: whether it can not do without.
    """

    make: Maker | None = None
    priors: Priors = unknown_priors
    tree: bool = False
    inner: int = 0
    grown: bool = False
    models: int = 0
    policy: DraftPolicy | None = None
    layered: bool = False
    store: type[Datastore] | None = None
    needs_store: bool = False

    @property
    def free(self) -> bool:
        """Whether it drafts without a model beside the target, and is no combination."""
        return self.models == 0 and self.inner == 0 and self.name not in ("auto", "none")

    def drafter(
        self, given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]
    ) -> Drafter:
        """Build it from so many drafters as `inner` says.

        Raises:
            OptionError: an option that it does not have, or something that it needs is missing.
        """
        settings = self.settings(options)
        if self.make is not None:
            return self.make(given, inner, settings)
        return self.cls(**settings)

    def check_inner(self, count: int) -> None:
        """Raise `OptionError` unless it is made of so many drafters, or of one growth or none."""
        if not (count <= 1 if self.grown else count == self.inner):
            raise OptionError(
                f"drafter {self.name!r} is made of {self.inner} others, and {count} are given",
                hint=f"Write {self.example}",
            )

    @property
    def example(self) -> str:
        """How it is written on the command line."""
        if self.grown:
            return f"{self.name}(eagle2)"
        if not self.inner:
            return self.name
        return f"{self.name}({','.join(('sam', 'recycling')[: self.inner])})"


def matched(length: int) -> float:
    """How often copied tokens are kept, by the length of the match."""
    return LOOKUP_CHANCES[min(length, max(LOOKUP_CHANCES))]


def copies(name: str, accept: float, longest: int = LONGEST_COPY) -> Source:
    """What is believed of copies, the first token of which is kept with chance `accept`."""
    return Source(
        name=name,
        accept=accept,
        goes_on=_COPY_GOES_ON,
        longest=longest,
        opportunistic=True,
        fixed=_COPY_FIXED,
        seconds=_EACH,
    )


def tree_source(name: str, reach: tuple[float, ...], *, opportunistic: bool = False) -> Source:
    """What is believed of trees without a model; `reach` is the chance of each node."""
    return Source(
        name=name,
        reach=reach,
        longest=MOST_NODES,
        opportunistic=opportunistic,
        fixed=_TREE_FIXED,
        seconds=_EACH,
    )


def by_match(origins: Mapping[int, str], *, tree: bool) -> tuple[Source, ...]:
    """What is believed of copies that are counted by the length of their match."""
    if tree:
        return tuple(
            tree_source(origin, even_reach(matched(n)), opportunistic=True)
            for n, origin in origins.items()
        )
    return tuple(copies(origin, matched(n)) for n, origin in origins.items())


def even_reach(first: float) -> tuple[float, ...]:
    """The chance of each node of a tree of which nothing is known: falling like 1 / place."""
    return tuple(first / (place + 1) for place in range(MOST_NODES))
