"""What all drafters with a part of the target have in common."""

from typing import Any

import pytest

from outrider.core.errors import OptionError, StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, Budget
from outrider.drafters.layers.del_ import DynamicExit
from outrider.drafters.layers.exit_rates import ExitRates
from outrider.drafters.layers.layer_search import LayerSetSearch, SearchSettings
from outrider.drafters.layers.skip import EvenSkip
from outrider.drafters.layers.swift import Swift
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.models.wrappers.skipping import SkippingModel
from outrider.protocols import Drafter
from outrider.strategy import Strategy
from tests.drafters.layers.layer_rigs import PROMPTS, QUICK, all_of, request_of
from tests.exactness.setups.rigs import run, stage


def test_they_are_drafters(model: Decoder) -> None:
    skip, swift, dynamic = all_of(model)
    assert all(isinstance(d, Drafter) for d in (skip, swift, dynamic))
    assert [d.name for d in (skip, swift, dynamic)] == ["skip", "swift", "del"]
    assert [d.learns for d in (skip, swift, dynamic)] == [False, True, True]
    bound = Strategy(target=model, drafter=swift).drafter
    assert isinstance(bound, Swift) and bound.search is swift.search
    bound = Strategy(target=model, drafter=dynamic).drafter
    assert isinstance(bound, DynamicExit) and bound.rates is dynamic.rates


def test_an_empty_budget_costs_nothing(model: Decoder) -> None:
    for drafter in all_of(model):
        state, *_ = drafter.begin([request_of(model)])
        [draft] = drafter.propose([state], [NO_IDS], [Budget.chain(0)])
        assert len(draft) == 0 and not state.cache.fed and state.counters.forwards == 0
        assert not state.request.target_cache.watched


class Nothing:
    """A policy that never drafts."""

    adaptive = False

    def budget(self, counters: Any, batch: int = 1) -> Budget:
        return Budget.chain(0)


def test_an_empty_budget_searches_nothing(model: Decoder) -> None:
    drafter = Swift(model=model, settings=QUICK)
    run(stage(model, drafter, policy=Nothing()), PROMPTS, max_new_tokens=20)
    assert drafter.search.tries == 0


class Once:
    """A policy that drafts in the first rounds only."""

    adaptive = False

    def budget(self, counters: Any, batch: int = 1) -> Budget:
        return Budget.chain(2 if counters.rounds < 8 else 0)


def test_rounds_that_do_not_draft_search_nothing(model: Decoder) -> None:
    drafter = Swift(model=model, settings=QUICK)
    [g] = run(stage(model, drafter, policy=Once()), PROMPTS[:1], max_new_tokens=40)
    assert 0 < drafter.search.tries <= 8 < g.counters.undrafted_rounds


def test_models_without_layers_and_foreign_targets_are_refused(model: Decoder, folder) -> None:
    table: Any = TabularModel.random()
    for make in (EvenSkip, Swift, DynamicExit):
        with pytest.raises(StrategyError, match="tabular cannot"):
            make(model=table)
    twin = Decoder.load(folder)
    for drafter in all_of(model):
        with pytest.raises(StrategyError, match="another model has filled"):
            drafter.begin([request_of(twin)])
        request = request_of(model)
        request.target_cache = None
        with pytest.raises(StrategyError, match="target_cache"):
            drafter.begin([request])


@pytest.mark.parametrize(
    "make",
    [
        lambda m: EvenSkip(model=m, speedup=0.5),
        lambda m: EvenSkip(model=m, speedup=4),
        lambda m: EvenSkip(model=m, layers=LayerSet.exit_at(4, 2)),
        lambda m: EvenSkip(model=m, confidence=1.5),
        lambda m: DynamicExit(model=m, every=0),
        lambda m: DynamicExit(model=m, longest=0),
        lambda m: DynamicExit(model=m, head=-1.0),
        lambda m: ExitRates(1),
        lambda m: ExitRates(4, fade=0.0),
        lambda m: SearchSettings(skip_ratio=1.0),
        lambda m: SearchSettings(context=0),
        lambda m: SearchSettings(noise=0.0),
        lambda m: LayerSetSearch(2),
        lambda m: LayerSetSearch(3),
        lambda m: SkippingModel(m, speedup=6),
    ],
)
def test_bad_options(model: Decoder, make: Any) -> None:
    with pytest.raises(OptionError):
        make(model)


@pytest.mark.usefixtures("unchecked")
def test_confidence_ends_drafts(model: Decoder) -> None:
    def drafted(**options: Any) -> int:
        whole = stage(model, EvenSkip(model=model, **options), window=6)
        [g] = run(whole, PROMPTS[:1], max_new_tokens=30)
        return max(len(g.counters.drafted_at), 1)

    assert drafted() == drafted(confidence=0.0) == 6
    assert drafted(confidence=1.0) == 1
