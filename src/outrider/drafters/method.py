"""The description of a drafter, and default priors that several drafters share."""

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
"""Chance that the first copied token is kept, by the length of the match (texts of `tiny`)."""

_COPY_GOES_ON = 0.8
"""Chance that each later copied token is kept."""

LONGEST_COPY = 32
_COPY_FIXED, _TREE_FIXED, _EACH = 2e-5, 5e-5, 1e-6
"""Fixed seconds of a copy and of a tree, and seconds per token, until they are measured."""

MOST_NODES = 64
"""Number of nodes of the largest tree."""

_UNKNOWN = 0.4
"""Chance of the first token of a drafter without a known prior."""

Maker = Callable[[Given, Sequence[Drafter], Mapping[str, Value]], Drafter]
Priors = Callable[[Any, Given], tuple[Source, ...]]


def unknown_priors(drafter: Drafter, given: Given) -> tuple[Source, ...]:
    """Return the priors of a drafter that declares none."""
    return tuple(copies(origin, _UNKNOWN) for origin in drafter.origins)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterMethod(Method[Drafter]):
    """The description of a drafter.

    Attributes:
        make: builds it from the inputs, from its inner drafters, and from the keyword arguments of
            its class; None calls the class with the keyword arguments alone.
        priors: expected results of the origins of its drafts before the first measurement. They are
            only the starting point of `ExpectedGain`; a few rounds of measurement replace them.
        tree: whether it drafts trees.
        inner: number of inner drafters.
        parts: names of inner drafters, for examples.
        grown: whether it takes a growth, which is optional: `tree(eagle2)`.
        models: number of models it needs below the target.
        head: whether its model is a head, which reads states of the target.
        policy: the policy it needs if draft sizes adapt, if not `ExpectedGain`.
        layered: whether it drafts with a part of the layers of a model.
        store: the kind of datastore that it reads; None if it reads none.
        needs_store: whether the datastore is required.
    """

    make: Maker | None = None
    priors: Priors = unknown_priors
    tree: bool = False
    inner: int = 0
    parts: tuple[str, ...] = ("sam", "recycling")
    grown: bool = False
    models: int = 0
    head: bool = False
    policy: DraftPolicy | None = None
    layered: bool = False
    store: type[Datastore] | None = None
    needs_store: bool = False

    @property
    def free(self) -> bool:
        """Whether it needs no model besides the target and no option, and is not a combination."""
        if any(option.required for option in self.options.values()):
            return False
        return self.models == 0 and self.inner == 0 and self.name not in ("auto", "none")

    def drafter(
        self, given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]
    ) -> Drafter:
        """Build it from as many drafters as `inner` states.

        Raises:
            OptionError: an unknown option, or a required input is missing.
        """
        settings = self.settings(options)
        if self.make is not None:
            return self.make(given, inner, settings)
        return self.cls(**settings)

    def check_inner(self, count: int) -> None:
        """Raise `OptionError` unless the number of inner drafters (or optional growths) is
        right."""
        if not (count <= 1 if self.grown else count == self.inner):
            raise OptionError(
                f"drafter {self.name!r} combines {self.inner} drafters, but {count} are given",
                hint=f"Write {self.example}",
            )

    @property
    def example(self) -> str:
        """Its syntax on the command line."""
        if self.grown:
            return f"{self.name}(eagle2)"
        if not self.inner:
            return self.name
        return f"{self.name}({','.join(self.parts[: self.inner])})"


def matched(length: int) -> float:
    """Return the chance that copied tokens are kept, by the length of the match."""
    return LOOKUP_CHANCES[min(length, max(LOOKUP_CHANCES))]


def copies(name: str, accept: float, longest: int = LONGEST_COPY) -> Source:
    """Return the priors of copies whose first token is kept with chance `accept`."""
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
    """Return the priors of trees without a model; `reach` is the chance of each node."""
    return Source(
        name=name,
        reach=reach,
        longest=MOST_NODES,
        opportunistic=opportunistic,
        fixed=_TREE_FIXED,
        seconds=_EACH,
    )


def by_match(origins: Mapping[int, str], *, tree: bool) -> tuple[Source, ...]:
    """Return the priors of copies that are counted by the length of their match."""
    if tree:
        return tuple(
            tree_source(origin, even_reach(matched(n)), opportunistic=True)
            for n, origin in origins.items()
        )
    return tuple(copies(origin, matched(n)) for n, origin in origins.items())


def even_reach(first: float) -> tuple[float, ...]:
    """Return the default chance of each node of a tree without known chances: decreasing like 1 /
    place.
    """
    return tuple(first / (place + 1) for place in range(MOST_NODES))
