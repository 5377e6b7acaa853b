"""Two drafters together: the union of their trees under one budget."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from outrider.core.errors import StrategyError
from outrider.core.types import EMPTY_DRAFT, BoolArray, Budget, Draft, Draw, IntArray, as_ids
from outrider.drafters.combine.pair import Pair, PairState
from outrider.drafters.given import Given
from outrider.drafters.method import DrafterMethod, even_reach, tree_source
from outrider.policies import Source
from outrider.protocols import NO_NEEDS, Drafter, Needs
from outrider.protocols.method import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(Pair):
    """Proposes the union of both drafts; a path that both propose appears once.

    Nodes are taken alternately, each drafter's in its own order, until the budget is used up. A
    union of sampled siblings was not drawn from a single distribution, so it counts as a
    deterministic set: the distributions are point masses, and are supplied only if both drafters
    pick deterministically.
    """

    @property
    def draw(self) -> Draw:
        """Deterministic, regardless of how the two drafters draw their siblings."""
        return Draw.DETERMINISTIC

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name: its drafts are counted together, regardless of which drafter proposed."""
        return (self.name,)

    @property
    def gives(self) -> Needs:
        """Probabilities as point masses, if neither drafter samples; no references."""
        picked = {self.first.draw, self.second.draw} == {Draw.DETERMINISTIC}
        return Needs(probs=picked and self.first.gives.probs and self.second.gives.probs)

    def bind(self, needs: Needs, tier: int) -> "Pair":
        """Bind both drafters. Raises `StrategyError` for a need that a union cannot fulfil."""
        if needs != NO_NEEDS and not self.gives.probs:
            raise StrategyError(
                f"a union of drafts ({self.name}) has neither distributions nor references",
                hint="Use Match as the rule, or one of the two drafters",
            )
        return Pair.bind(self, needs, tier)

    def propose(
        self, states: Sequence[PairState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return the union of both drafts for each request."""
        firsts = self._ask_first(states, tails, budgets)
        seconds = self._ask_second(states, tails, budgets)
        return [
            self._union(a, b, budget.nodes)
            for a, b, budget in zip(firsts, seconds, budgets, strict=True)
        ]

    def _union(self, a: Draft, b: Draft, most: int) -> Draft:
        if not len(a) or not len(b):
            alone = a if len(a) else b
            kept = alone if len(alone) <= most else alone.only(np.arange(most))
            return replace(kept, origin=self.name) if len(kept) else EMPTY_DRAFT
        found: dict[tuple[int, int], int] = {}
        tokens: list[int] = []
        parents: list[int] = []
        sources: list[str] = []
        probes: list[bool] = []
        places = ({-1: -1}, {-1: -1})
        for side, node in _in_turns(len(a), len(b)):
            draft, place = (a, b)[side], places[side]
            parent = place.get(int(draft.parents[node]))
            if parent is None:
                continue
            token, probe = int(draft.tokens[node]), _is_probe(draft, node)
            key = (parent, token if not probe else ~len(tokens))  # each probe has a key of its own
            if key not in found:
                if len(tokens) == most:
                    continue
                found[key] = len(tokens)
                tokens.append(token)
                parents.append(parent)
                sources.append(draft.sources[node])
                probes.append(probe)
            place[node] = found[key]
        if not tokens:
            return EMPTY_DRAFT
        return Draft(
            tokens=as_ids(tokens),
            parents=as_ids(parents),
            sources=tuple(sources),
            probe=_mask(probes),
            prompts=a.prompts if b.prompts is None else b.prompts,
            origin=self.name,
            match=max(a.match, b.match),
        )


def _in_turns(a: int, b: int) -> Iterator[tuple[int, int]]:
    """Yield `(side, node)`, alternating between the two sides."""
    for first, second in zip_longest(range(a), range(b)):
        if first is not None:
            yield 0, first
        if second is not None:
            yield 1, second


def _is_probe(draft: Draft, node: int) -> bool:
    return draft.probe is not None and bool(draft.probe[node])


def _mask(probes: list[bool]) -> BoolArray | None:
    return np.array(probes) if any(probes) else None


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Merge:
    first, second = inner
    return Merge(first=first, second=second)


def _priors(drafter: Merge, given: Given) -> tuple[Source, ...]:
    """Return the priors of the union as one tree. Its nodes take as long as those of the slower
    drafter.
    """
    parts = (*given.priors_of(drafter.first), *given.priors_of(drafter.second))
    chance = max((part.reach[0] if part.reach else part.accept for part in parts), default=0.5)
    union = tree_source(drafter.name, even_reach(chance))
    longest = max(part.fixed + part.seconds * min(part.longest, union.depth) for part in parts)
    return (replace(union, fixed=union.fixed + longest),)


METHOD = DrafterMethod(
    name="merge",
    cls=Merge,
    summary="the union of the trees of two drafters, under one budget",
    memory="of its parts",
    make=_make,
    priors=_priors,
    inner=2,
    tree=True,
)
