"""Self-speculation: the target drafts for itself with a subset of its own layers.

The weights are the target's. The keys and values of the text are also shared: a borrowed cache
reads them in place, and draft rows use the slots that the verification overwrites
(`models/caches/borrowed.py`). The additional memory is negligible. The methods differ in which
layers are left out: a fixed even set (`skip.py`), a set found by search (`swift.py`), or all layers
after an exit that is chosen every round (`del_.py`).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from outrider.core.checks import Range
from outrider.core.counters import Counters
from outrider.core.errors import StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import EMPTY_DRAFT, Budget, Draft, Draw, IntArray, Verified
from outrider.drafters.given import Given
from outrider.drafters.neural.growth import Growth
from outrider.drafters.neural.model import ModelDrafter, ModelState
from outrider.drafters.neural.tree import TreeDrafter
from outrider.models.caches.bookkeeping import CacheBook
from outrider.models.caches.borrowed import Borrowed
from outrider.policies import Source
from outrider.policies.confidence import BelowThreshold
from outrider.protocols import NO_NEEDS, DrafterState, LanguageModel, Layered, Needs, Request

D = TypeVar("D", bound="LayerSubsetDrafter")

_MOST_PARTS = 64
"""Largest number of submodels that are cached; a search uses many of them only once."""


@dataclass(slots=True)
class LayerSubsetState(ModelState):
    """One request; `layers` are the layers that computed the rows in its borrowed cache."""

    layers: LayerSet | None = None
    drafted: bool = False


_CONFIDENCE = Range(0.0, 1.0, optional=True, hint="Give a chance from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSubsetDrafter:
    """The base class of self-speculative drafters.

    Attributes:
        model: the target itself.
        confidence: a draft ends with a token that was drawn while no token had this probability.
            With None, the method decides. A stop in the budget replaces it.
        growth: how draft trees grow; None drafts chains.
        name: the source its tokens are counted under.

    Raises:
        StrategyError: a model that cannot run a subset of its layers.
        OptionError: a confidence outside 0 to 1.
    """

    model: LanguageModel
    confidence: float | None = None
    growth: Growth | None = None
    name: str = "own"
    needs: Needs = NO_NEEDS
    tier: int = 1
    parts: dict[LayerSet, ModelDrafter | TreeDrafter] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    gives = Needs(probs=True, reference=True)
    learns = False

    def __post_init__(self) -> None:
        if self.model.layered is None:
            raise StrategyError(
                f"{self.model.info.name} cannot draft with a subset of its layers",
                hint="Use a model with the capability `layered`, or another drafter",
            )
        _CONFIDENCE.check("confidence", self.confidence)

    @property
    def layered(self) -> Layered:
        """The capability of the target to run a subset of its layers."""
        assert self.model.layered is not None  # the constructor has checked it
        return self.model.layered

    @property
    def origins(self) -> tuple[str, ...]:
        """Its own name only: all its drafts are counted under it."""
        return (self.name,)

    def bind(self: D, needs: Needs, tier: int) -> D:
        """Configure drafts to carry distributions and references only if the rule above reads
        them."""
        return replace(self, needs=needs, tier=tier)

    @property
    def draw(self) -> Draw:
        """Independent draws for chains; for trees, how the growth selects siblings."""
        return Draw.IID if self.growth is None else self.growth.draw

    def begin(
        self, requests: Sequence[Request], previous: Sequence[DrafterState | None] | None = None
    ) -> list[DrafterState]:
        """Borrow the target's caches; caches borrowed in an earlier turn are not needed.

        Raises:
            StrategyError: the target of these requests is another model.
        """
        return [self._state(request) for request in requests]

    def _state(self, request: Request) -> LayerSubsetState:
        if request.target_cache is None:
            raise StrategyError(
                f"{self.name!r} drafts with the target's layers, but Request.target_cache is not "
                "set",
                hint="Set it to the target's cache, as Strategy does",
            )
        return LayerSubsetState(request, self.layered.borrow(request.target_cache))

    def propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return one draft per request; requests with an empty budget are skipped."""
        drafts, asked = [EMPTY_DRAFT] * len(states), []
        for i, (state, budget) in enumerate(zip(states, budgets, strict=True)):
            state.drafted = self.wanted(budget) > 0
            if state.drafted:
                asked.append(i)
        if asked:
            written = self._propose(
                [states[i] for i in asked], [tails[i] for i in asked], [budgets[i] for i in asked]
            )
            for i, draft in zip(asked, written, strict=True):
                drafts[i] = draft
        return drafts

    @abstractmethod
    def _propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        """Return drafts for requests whose budgets are not empty."""

    def observe(self, states: Sequence[DrafterState], verified: Sequence[Verified]) -> None:
        """Do nothing: a fixed subset of layers does not learn."""

    def commit(self, states: Sequence[DrafterState], tokens: Sequence[IntArray]) -> None:
        """Drop the draft rows, because the target's cache has advanced."""
        for state in states:
            state.cache.commit(())

    def counters(self, state: DrafterState) -> dict[str, Counters]:
        """Return the counters of the submodel: its forwards and drafted tokens."""
        state.counters.off = state.off
        return {self.name: state.counters}

    def part(self, layers: LayerSet) -> ModelDrafter | TreeDrafter:
        """Return the drafter that runs `layers`, created once and cached."""
        found = self.parts.get(layers)
        if found is None:
            if len(self.parts) >= _MOST_PARTS:
                self.parts.clear()
            found = self._make(self.layered.subset(layers))
            self.parts[layers] = found
        return found

    def _make(self, model: LanguageModel) -> ModelDrafter | TreeDrafter:
        if self.growth is None:
            return ModelDrafter(model=model, name=self.name, needs=self.needs)
        return TreeDrafter(
            model=model,
            growth=self.growth,
            name=self.name,
            origin=self.name,
            needs=self.needs,
            tier=self.tier,
        )

    def draft(
        self,
        layers: LayerSet,
        states: Sequence[LayerSubsetState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
        confidence: float | None,
    ) -> list[Draft]:
        """Propose chains or trees with `layers`."""
        for state in states:
            if state.layers != layers:  # rows of other layers have no keys for these layers
                state.cache.commit(())
                state.layers = layers
        return self.part(layers).propose(states, tails, [_stopping(b, confidence) for b in budgets])

    def wanted(self, budget: Budget) -> int:
        """Return the largest number of tokens on the longest path of a draft."""
        if self.growth is not None:
            return min(budget.depth, budget.nodes_of(self.name))
        return min(budget.share(self.name), budget.nodes)


def full_cache(state: LayerSubsetState) -> CacheBook:
    """Return the cache of the target for this request."""
    assert isinstance(state.cache, Borrowed)
    return state.cache.lender


def _stopping(budget: Budget, confidence: float | None) -> Budget:
    if budget.stop is not None or not confidence:
        return budget
    return replace(budget, stop=BelowThreshold(confidence))


_OWN_SHARE, _MOST_OWN = 0.55, 12
"""Cost of a token with half the layers and the head, as a share of a target forward; longest
draft."""


def layer_subset_priors(drafter: LayerSubsetDrafter, given: Given) -> tuple[Source, ...]:
    """Return the priors of drafts by a subset of the target's layers."""
    seconds = _OWN_SHARE * given.measured.target.seconds(1)
    return (Source(name=drafter.name, seconds=seconds, accept=0.5, longest=_MOST_OWN),)
