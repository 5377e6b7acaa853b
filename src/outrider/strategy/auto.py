"""The default strategy: who drafts, and how far, from what forwards cost on this machine.

Costs are measured once, when the models are loaded. Which source drafts, how long, and whether any
does, is then decided round by round from what was accepted (`policies/gain.py`). The text is that
of undrafted decoding in any case, so nothing here needs to be certain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from outrider.core.types import Prompt
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters import Bypass, Fallback, Lookup, ModelDrafter, Qualified
from outrider.drafters.catalogue import FREE
from outrider.drafters.statistics.recycling import TokenRecycling
from outrider.models.costs import measure_costs
from outrider.policies import CostCurve, ExpectedGain, Source
from outrider.policies.gain import DEAR
from outrider.policies.windows import Chances, best_windows, token_seconds
from outrider.protocols import Drafter, LanguageModel, Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy, tier_names
from outrider.strategy.parts import (
    LOOKUP,
    Given,
    Parts,
    free_parts,
    lookup_sources,
    recycling_source,
)
from outrider.strategy.trees import tree_parts

FURTHER_TIER = 0.1
"""How much more a qualifier must promise before it takes part: its prompt has to be read, too."""

_ROWS_LEARNED = 8
"""Rows of a long copy that Token Recycling learns, in line behind lookups."""

_MARGIN = 0.1
"""How much more than undrafted rounds drafted ones must promise."""

_ASKING = 2e-5
"""Seconds of a round in which drafters are asked and have nothing."""

_OVERHEAD_PROMPT, _OVERHEAD_ROUNDS = 16, 12
_DRAFT_WIDTHS, _DRAFT_LIMIT = (1, 2), 0.02
_QUALIFIER_WIDTHS, _QUALIFIER_LIMIT = (1, 2, 4, 8), 0.04


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds on this machine.

    Attributes:
        target: of the target's forwards.
        overhead: of an undrafted round beside the forward and the choice of its token. Making a
            draft and handling it are each taken to need as much again.
    """

    target: CostCurve
    overhead: float

    @classmethod
    def of(cls, target: LanguageModel) -> "Costs":
        """Measure them."""
        return cls(measure_costs(target), round_overhead(target))


@dataclass(frozen=True, slots=True)
class Automatic:
    """Builds strategies that adapt, for one target and the models below it.

    Attributes:
        target: the model whose text is wanted.
        below: smaller models, the largest first; the last one drafts.
        chances: what is believed of them before they were tried.
        costs: the target's; measured when not given.
        datastore: what retrieving drafters read, opened.
        tree: how the draft model grows trees, if it does.
    """

    target: LanguageModel
    below: Sequence[LanguageModel] = ()
    chances: Chances = field(default_factory=Chances)
    costs: Costs | None = None
    datastore: Any = None
    tree: str | None = None

    def strategy(self, kind: str = "auto") -> Strategy:
        """One of `KINDS`; undrafted where the target's window has no room to measure in."""
        if kind == "none" or self.target.info.context_length < 3:
            return Strategy(target=self.target)
        costs = self.costs or Costs.of(self.target)
        if kind in FREE:
            return self._free(costs, free_parts(kind, self._given(costs)))
        if not self.below:
            return self._without_draft(costs)
        if self.tree is not None:
            return self._free(costs, tree_parts(self.tree, self.below[-1], _each(self.below[-1])))
        draft = ModelDrafter(model=self.below[-1])
        each = _each(draft.model)
        alone = Source(
            name=draft.name, seconds=each, fixed=costs.overhead, accept=self.chances.draft
        )
        if kind == "model":
            return self._built(costs, draft, (alone,))
        if kind == "pyramid":
            nest, source = self._nest(draft, alone, costs)
            return self._built(costs, nest, (source,))
        chosen = self._qualifier(each, costs)
        if chosen is None:
            copies = _copies(costs)
            line = Fallback(first=copies, second=draft)
            return self._built(costs, line, (*lookup_sources(copies), alone))
        nest, source = self._level(draft, alone, costs, *chosen, name="qualifier")
        copies = _copies(costs)
        line = Fallback(first=copies, second=Bypass(qualified=nest))
        return self._built(costs, line, (*lookup_sources(copies), alone, source))

    def _given(self, costs: Costs) -> Given:
        return Given(
            target=self.target,
            datastore=self.datastore,
            forward_seconds=costs.target.seconds(1),
        )

    def _without_draft(self, costs: Costs) -> Strategy:
        """Copies where they promise more, else what the target last thought likely."""
        rows, copies = TokenRecycling(most_rows=_ROWS_LEARNED), _copies(costs)
        line = Fallback(first=copies, second=rows)
        return self._built(costs, line, (*lookup_sources(copies), recycling_source(rows)))

    def _free(self, costs: Costs, parts: Parts) -> Strategy:
        """A drafter of its own kind, asked for as much as pays."""
        if parts.policy is not None:
            return Strategy(target=self.target, drafter=parts.drafter, policy=parts.policy)
        return self._built(costs, parts.drafter, parts.sources)

    def _built(self, costs: Costs, drafter: Drafter, sources: tuple[Source, ...]) -> Strategy:
        policy = _policy(costs.target, costs, sources)
        return Strategy(target=self.target, drafter=drafter, policy=policy)

    def _qualifier(self, each: float, costs: Costs) -> tuple[LanguageModel, CostCurve] | None:
        """The qualifier that promises most, if one promises enough, and its costs."""
        best, chosen = 0.0, None
        for qualifier in self.below[:-1]:
            curve = _qualifier_costs(qualifier)
            windows = best_windows(
                costs.target.plus(2 * costs.overhead),
                curve.plus(2 * costs.overhead),
                each,
                self.chances,
                FURTHER_TIER,
            )
            if len(windows.lengths) == 2 and windows.speed > best:
                best, chosen = windows.speed, (qualifier, curve)
        return chosen

    def _nest(self, draft: ModelDrafter, source: Source, costs: Costs) -> tuple[Drafter, Source]:
        """All models, one inside the other."""
        drafter: Drafter = draft
        names = tier_names(len(self.below) - 1)
        for qualifier, name in reversed(list(zip(self.below[:-1], names, strict=True))):
            curve = _qualifier_costs(qualifier)
            drafter, source = self._level(drafter, source, costs, qualifier, curve, name=name)
        return drafter, source

    def _level(
        self,
        drafter: Drafter,
        inner: Source,
        costs: Costs,
        qualifier: LanguageModel,
        curve: CostCurve,
        *,
        name: str,
    ) -> tuple[Qualified, Source]:
        """A qualifier over `drafter`, and what it is as a source of drafts itself."""
        policy = _policy(curve, costs, (replace(inner, accept=self.chances.inner),))
        nest = Qualified(drafter=drafter, qualifier=qualifier, policy=policy, name=name)
        whole = curve.plus(2 * costs.overhead)
        return nest, Source(
            name=name,
            seconds=token_seconds(whole, inner.seconds, self.chances.inner),
            fixed=costs.overhead,
            accept=self.chances.qualifier,
        )


def _copies(costs: Costs) -> Lookup:
    """Lookups; where a round is so short that asking is dear, after three matching tokens only."""
    round_seconds = costs.target.seconds(1) + costs.overhead
    return LOOKUP if DEAR * round_seconds > _ASKING else replace(LOOKUP, min_ngram=3)


def _policy(verify: CostCurve, costs: Costs, sources: tuple[Source, ...]) -> ExpectedGain:
    return ExpectedGain(
        verify=verify,
        sources=sources,
        overhead=costs.overhead,
        handling=costs.overhead,
        asking=_ASKING,
        margin=_MARGIN,
    )


def round_overhead(target: LanguageModel) -> float:
    """Seconds that an undrafted round takes beside the forward and the choice of its token.

    The choice is left out because every token has one, drafted or not. The mean over a short text
    that nobody reads.
    """
    prompt = Prompt(token_ids=(0,) * min(_OVERHEAD_PROMPT, target.info.context_length - 2))
    sampler = Sampler(SamplingParams(max_new_tokens=_OVERHEAD_ROUNDS, seed=0))
    generation = Generation(Request(prompt, sampler))
    for _ in generate(Strategy(target=target).stage, [generation]):
        pass
    spent = generation.counters.seconds
    models = sum(spent.get(part, 0.0) for part in ("prefill", "verify", "accept"))
    elapsed = generation.ended - generation.begun
    return max(elapsed - models, 0.0) / max(generation.counters.rounds, 1)


def _each(draft: LanguageModel) -> float:
    """Seconds of a forward of the draft model over one row."""
    return measure_costs(draft, _DRAFT_WIDTHS, limit=_DRAFT_LIMIT).seconds(1)


def _qualifier_costs(qualifier: LanguageModel) -> CostCurve:
    return measure_costs(qualifier, _QUALIFIER_WIDTHS, limit=_QUALIFIER_LIMIT)
