"""The default strategy: what it is made of, and that it gives up what does not pay."""

from typing import Any

import pytest
import torch

from outrider.acceptance import Match, Rejection
from outrider.core.errors import OptionError, StrategyError
from outrider.decoding import generate
from outrider.drafters import (
    Bypass,
    Fallback,
    Lookup,
    ModelDrafter,
    NoDrafter,
    Qualified,
    Successors,
)
from outrider.drafters.given import Costs
from outrider.drafters.statistics.recycling import TokenRecycling
from outrider.engine.generator import Generator
from outrider.engine.load import load
from outrider.models.tabular import TabularModel
from outrider.policies import CostSurface, ExpectedGain, FixedLength, Source
from outrider.policies.windows import Chances
from outrider.strategy import Strategy
from outrider.strategy.auto import Automatic
from tests.engine.conftest import Folders
from tests.exactness.setups.rigs import PROMPTS, generation, outputs, run, stage, tabular_family
from tests.matrix import matrix

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.method("auto")]

FAMILY = tabular_family()
BELOW = (FAMILY.qualifier, FAMILY.draft)
DEAR = Costs(CostSurface.of({1: 1.0, 32: 1.5}), 1e-4)
"""A target beside which the tabular models below cost nothing, and a row hardly more."""

FAIR = Costs(CostSurface.of({1: 1.0, 2: 1.1, 8: 1.6, 32: 4.0}), 1e-4)

KINDS = ["auto", "lookup", "model", "pyramid"]


def write(strategy: Strategy, **options: Any) -> list[Any]:
    return run(strategy.stage, PROMPTS, **{"max_new_tokens": 60, "temperature": 0.8, **options})


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Seconds of one forward by `id(model)`, in place of measuring."""
    found: dict[int, float] = {}

    def measured(model: Any, *a: Any, **k: Any) -> CostSurface:
        return CostSurface.of({1: found[id(model)], 33: 1.5 * found[id(model)]})

    for module in ("strategy.auto", "drafters.given"):
        monkeypatch.setattr(f"outrider.{module}.measure_costs", measured)
    return found


@pytest.mark.parametrize(
    ("kind", "costs", "temperature"), matrix(KINDS, [None, DEAR], [0.0, 0.9], crossed=1)
)
def test_the_text_is_the_targets(kind: str, costs: Costs | None, temperature: float) -> None:
    strategy = Automatic(FAMILY.target, BELOW, costs=costs).strategy(kind)
    assert strategy.exactness == "identical"
    drafted = write(strategy, temperature=temperature)
    assert outputs(drafted) == outputs(write(strategy.undrafted, temperature=temperature))
    if costs is DEAR:
        assert any(g.counters.accepted for g in drafted), "until it shows what drafting takes here"


def test_what_each_is_made_of() -> None:
    def built(kind: str, below=BELOW) -> Strategy:
        return Automatic(FAMILY.target, below, costs=DEAR).strategy(kind)

    assert isinstance(built("none").drafter, NoDrafter)
    assert isinstance(built("lookup").drafter, Lookup)
    alone = built("auto", ()).drafter
    assert isinstance(alone, Successors)
    quick = Costs(CostSurface.of({1: 1e-3, 32: 1.5e-3}), 1e-4)
    beside = Automatic(FAMILY.target, (), costs=quick).strategy("auto").drafter
    assert isinstance(beside, Fallback) and isinstance(beside.first, Lookup)
    assert isinstance(beside.second, TokenRecycling)
    assert isinstance(built("model").drafter, ModelDrafter)
    nest = built("pyramid", (FAMILY.qualifier, FAMILY.small, FAMILY.draft)).drafter
    assert isinstance(nest, Qualified) and nest.name == "qualifier"
    assert isinstance(nest.drafter, Qualified) and nest.drafter.name == "qualifier2"
    line = built("auto", BELOW[1:]).drafter
    assert isinstance(line, Fallback) and isinstance(line.second, ModelDrafter)


def test_a_qualifier_takes_part_only_where_the_recursion_says_so(costs: dict[int, float]) -> None:
    def second(top: float, middle: float, each: float, **believed: float) -> Any:
        costs.update(zip(map(id, (FAMILY.target, *BELOW)), (top, middle, each), strict=True))
        made = Automatic(FAMILY.target, BELOW, Chances(**believed)).strategy()
        assert isinstance(made.drafter, Fallback)
        return made.drafter.second

    wins = second(20.0, 4.0, 1.0, draft=0.5, qualifier=0.85, inner=0.8)
    assert isinstance(wins, Bypass) and wins.qualified.qualifier is FAMILY.qualifier
    assert isinstance(second(20.0, 15.0, 1.0), ModelDrafter)
    assert isinstance(second(20.0, 4.0, 1.0, draft=0.8, qualifier=0.8), ModelDrafter)


def test_a_target_too_small_to_measure_is_undrafted() -> None:
    tiny = TabularModel(torch.zeros(3, 3), context_length=2)
    assert isinstance(Automatic(tiny).strategy().drafter, NoDrafter)


# -- giving up ---------------------------------------------------------------------------------


def opposite() -> TabularModel:
    """A model whose best token is always the target's worst."""
    target = FAMILY.target
    assert isinstance(target, TabularModel)
    return TabularModel(-target.table)


def test_a_useless_draft_model_is_given_up() -> None:
    strategy = Automatic(FAMILY.target, (opposite(),), costs=FAIR).strategy("model")
    [g] = run(strategy.stage, [(1, 2)], max_new_tokens=300)
    drafted = g.counters.rounds - g.counters.undrafted_rounds
    assert g.counters.accepted == 0 < drafted
    assert drafted < 25, "a few rounds, then probes"
    assert g.counters.drafted < 80


def test_a_useless_draft_model_inside_a_pyramid_is_given_up() -> None:
    """The qualifier refuses what it drafts; with a fixed length it would be asked every time."""
    policy = ExpectedGain(verify=FAIR.target, sources=(Source(name="draft", seconds=0.1),))

    def inner(policy) -> Any:
        nest = Qualified(
            drafter=ModelDrafter(model=opposite()), qualifier=FAMILY.qualifier, policy=policy
        )
        [g] = run(stage(FAMILY.target, nest, window=6), [(1, 2)], max_new_tokens=300)
        return g, nest.counters(g.sequence.state)

    fixed, kept_on = inner(FixedLength(5))
    gaining, gave_up = inner(policy)
    assert gaining.output == fixed.output
    assert kept_on["draft"].drafted > 500
    assert gave_up["draft"].drafted < 80
    assert gave_up["qualifier"].undrafted_rounds > 0.8 * gave_up["qualifier"].rounds
    assert gave_up["qualifier"].tallies["draft"].newest > 200, "it is still tried now and then"
    assert gaining.counters.accepted == fixed.counters.accepted, "what reaches the target is equal"


def test_what_was_learned_serves_the_next_request() -> None:
    generator = Generator(Automatic(FAMILY.target, (opposite(),), costs=FAIR).strategy("model"))
    first = generator.generate([1, 2], max_new_tokens=100)
    generator.reset()
    second = generator.generate([3, 4], max_new_tokens=100)
    batch = generator.generate([[5, 4], [1, 1]], max_new_tokens=60)
    drafted = [r.speculation.target.drafted for r in (first, second, *batch)]
    assert drafted[0] > max(drafted[1:])
    plain = Generator(Strategy(target=FAMILY.target))
    assert second.token_ids == plain.generate([3, 4], max_new_tokens=100).token_ids


# -- pairings ----------------------------------------------------------------------------------


def test_adaptive_lengths_under_rejection() -> None:
    """Inner counters tell of tokens that an outer `Rejection` discards and draws again, with the
    same noise; only where the inner text does not depend on lengths (`Match`) is that harmless."""
    policy = ExpectedGain(verify=DEAR.target, sources=(Source(name="draft"),))

    def nest(rule, policy=policy) -> Qualified:
        return Qualified(
            drafter=ModelDrafter(model=FAMILY.draft),
            qualifier=FAMILY.qualifier,
            rule=rule,
            policy=policy,
        )

    target = FAMILY.target
    with pytest.raises(StrategyError, match="drawn again"):
        Strategy(target=target, drafter=nest(Rejection()), rule=Rejection())
    with pytest.raises(StrategyError, match="at the target"):
        Strategy(target=target, drafter=nest(Match()), rule=Rejection(), policy=policy)
    Strategy(target=target, drafter=nest(Match()), rule=Rejection())
    Strategy(target=target, drafter=nest(Rejection(), FixedLength(2)), rule=Rejection())
    Strategy(target=target, drafter=nest(Rejection()), rule=Match(), policy=policy)


# -- load --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "windows"),
    [
        ({}, (Fallback, Lookup), ()),
        ({"drafter": "lookup"}, (Lookup,), ()),
        ({"drafter": "lookup", "num_speculative_tokens": 4}, (Lookup,), (4,)),
        ({"drafter": "lookup", "mode": "distribution"}, (Lookup,), (5,)),
        ({"drafter": "model"}, (ModelDrafter,), ()),
        ({"drafter": "model", "num_speculative_tokens": 3}, (ModelDrafter,), (3,)),
        ({"drafter": "model", "mode": "fuzzy"}, (ModelDrafter,), (5,)),
        ({"drafter": "pyramid"}, (Qualified,), ()),
        ({"drafter": "none"}, (NoDrafter,), ()),
        ({"num_speculative_tokens": 3}, (Qualified,), (10, 3)),
        ({"num_qualified_tokens": 4}, (Qualified,), (4, 5)),
        ({"mode": "fuzzy"}, (Qualified,), (10, 5)),
        ({"mode": "none"}, (NoDrafter,), ()),
    ],
)
def test_load(folders: Folders, options: Any, kind: Any, windows: tuple[int, ...]) -> None:
    generator = load(
        folders.target, qualifier=folders.qualifier, draft=folders.draft, dtype="float64", **options
    )
    assert isinstance(generator.strategy.drafter, kind)
    assert generator.strategy.windows == windows
    result = generator.generate("ab", max_new_tokens=12)
    assert result.completion_tokens
    if options.get("mode", "exact") in ("exact", "none"):
        plain = load(folders.target, drafter="none", dtype="float64")
        assert result.token_ids == plain.generate("ab", max_new_tokens=12).token_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafter": "pyramids"}, "unknown drafter 'pyramids'. Did you mean 'pyramid'"),
        ({"drafter": "pyramid"}, "needs a qualifier and a draft model"),
        ({"drafter": "lookup", "mode": "fuzzy"}, "'lookup' has none"),
        ({"drafter": "model", "draft": None}, "'model' needs a draft model"),
        ({"draft": None, "mode": "distribution"}, "needs a draft model"),
    ],
)
def test_what_does_not_fit_is_refused(folders: Folders, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load(folders.target, **{"draft": folders.draft, **options})


def test_results_say_what_was_drafted(folders: Folders) -> None:
    generator = load(folders.target, draft=folders.draft, drafter="lookup", dtype="float64")
    target = generator.generate("abababababab", max_new_tokens=60).to_dict()["speculation"]
    drafted = sum(origin["drafted"] for origin in target["origins"].values())
    assert drafted == target["drafted"]
    rounds = target["rounds"] - target["undrafted_rounds"]
    assert target["mean_draft_length"] == (drafted / rounds if rounds else 0.0)


def test_a_batch_of_samples_adapts_together() -> None:
    strategy = Automatic(FAMILY.target, BELOW, costs=DEAR).strategy()
    prompt = generation((1, 2, 3)).request.prompt
    samples = [generation(prompt, sample=i, temperature=1.0, max_new_tokens=60) for i in range(4)]
    for _ in generate(strategy.stage, samples):
        pass
    for i, g in enumerate(samples):
        alone = generation(prompt, sample=i, temperature=1.0, max_new_tokens=60)
        for _ in generate(strategy.undrafted.stage, [alone]):
            pass
        assert g.output == alone.output
