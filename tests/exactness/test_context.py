"""Models that select what they read: drafted and undrafted texts are equal, swaps or no swaps."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from outrider import kernels
from outrider.acceptance import Fuzzy
from outrider.context.config import ContextConfig
from outrider.context.selector import Selected
from outrider.decoding.generation import Generation
from outrider.drafters import Lookup, ModelDrafter, NoDrafter, Qualified
from outrider.drafters.layers.del_ import DynamicExit
from outrider.drafters.layers.skip import EvenSkip
from outrider.drafters.layers.swift import Swift
from outrider.drafters.neural.growth import Eagle2
from outrider.drafters.neural.tree import TreeDrafter
from outrider.drafters.statistics.recycling import TokenRecycling
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter, LanguageModel
from tests.context.toys import Wandering, long_prompt
from tests.exactness.setups.checkpoints import load_family, make_tiers
from tests.exactness.setups.rigs import Family, outputs, run, samples, stage
from tests.exactness.setups.roster import free
from tests.matrix import matrix

PROMPTS = [long_prompt(1), long_prompt(2, chunks=9, head=0), long_prompt(3, chunks=2, tail=1)]
SWAPPING = ContextConfig(
    keep_ratio=0.5,
    refresh=4,
    hysteresis=0.0,
    max_swaps=2,
    recompute="suffix",
    pin_ends=False,
    chunk_size=4,
)
CONFIGS = {
    "suffix": SWAPPING,
    "compact": replace(SWAPPING, positions="compact"),
    "new_only": replace(SWAPPING, recompute="new_only"),
    "partial": replace(SWAPPING, recompute="partial", recompute_share=0.4),
    "growing": replace(SWAPPING, keep_ratio=0.2, growth=1, refresh=3),
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "t0.8": {"temperature": 0.8},
    "penalties": {"temperature": 0.9, "repetition_penalty": 1.3, "frequency_penalty": 0.3},
}


RUNNERS = ("eager", "native", "transformers") if kernels.available() else ("eager", "transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> list[Path]:
    """Target, qualifier, small and draft: each further from the target."""
    return make_tiers(
        tmp_path_factory.mktemp("context"), "llama", (0.0, 0.1, 0.2, 0.3), num_hidden_layers=4
    )


@pytest.fixture(
    scope="module",
    params=["eager", *(pytest.param(r, marks=pytest.mark.slow) for r in RUNNERS[1:])],
)
def family(request: Any, folders: list[Path]) -> Family:
    return load_family(folders, request.param)


def cases(names: str, *axes: Any, crossed: int = 1) -> pytest.MarkDecorator:
    """With runners for `family`."""
    table = matrix(*axes, crossed=crossed)
    return pytest.mark.parametrize(names.split(), table, indirect=["family"], scope="module")


def selecting(model: LanguageModel, config: ContextConfig = SWAPPING, seed: int = 0) -> Selected:
    return Selected(model, Wandering(seed), config)


def drafters(family: Family, target: LanguageModel) -> dict[str, Drafter]:
    """Some of every kind; those with models read a selection of their own."""
    draft = selecting(family.draft, replace(SWAPPING, keep_ratio=0.3, refresh=3), seed=1)
    model = ModelDrafter(model=draft)
    middle = selecting(family.qualifier, replace(SWAPPING, refresh=5), seed=2)
    nest = Qualified(drafter=model, qualifier=middle, policy=FixedLength(3))
    return {
        "model": model,
        "model-reads-all": ModelDrafter(model=family.draft),
        "tree": TreeDrafter(model=draft, growth=Eagle2(width=3)),
        "pyramid": nest,
        "deep": Qualified(
            drafter=replace(nest, name="low", qualifier=selecting(family.small, seed=3)),
            qualifier=family.qualifier,
            policy=FixedLength(4),
        ),
        "lookup": Lookup(max_ngram=3, min_ngram=1),
        "recycling": TokenRecycling(),
        "skip": EvenSkip(model=target),
        "swift": Swift(model=target),
        "dynamic-exit": DynamicExit(model=target),
    }


NAMES = (
    "model",
    "model-reads-all",
    "tree",
    "pyramid",
    "deep",
    "lookup",
    "recycling",
    "skip",
    "swift",
    "dynamic-exit",
)
TREE = FixedTree(depth=7, nodes=12)


def written(
    target: LanguageModel, drafter: Drafter, prompts: Sequence[Any] = PROMPTS, **options: Any
) -> list[Generation]:
    return run(stage(target, drafter, policy=TREE), prompts, **{"max_new_tokens": 11, **options})


@cache
def undrafted(family: Family, sampling: str) -> tuple[Selected, list[Generation]]:
    target = selecting(family.target)
    return target, written(target, NoDrafter(), **SAMPLINGS[sampling])


@cases("name family sampling", NAMES, RUNNERS, SAMPLINGS)
def test_drafted_equals_undrafted_on_a_target_that_selects(
    family: Family, name: str, sampling: str
) -> None:
    target, plain = undrafted(family, sampling)
    drafter = drafters(family, target)[name]
    drafted = written(target, drafter, **SAMPLINGS[sampling])
    assert outputs(drafted) == outputs(plain)
    alone = written(target, drafter, PROMPTS[1:2], **SAMPLINGS[sampling])
    assert outputs(alone) == outputs(plain[1:2])
    for one, other in zip(drafted, plain, strict=True):
        ours, theirs = (g.sequence.cache.selection.decisions for g in (one, other))
        assert [decision.chosen for decision in ours] == [decision.chosen for decision in theirs]


@pytest.mark.slow
@cases("family name", RUNNERS, NAMES)
def test_after_many_swaps(family: Family, name: str) -> None:
    """Texts long enough for six looks."""
    target = selecting(family.target)
    options = {"temperature": 0.8, "max_new_tokens": 26}
    plain = written(target, NoDrafter(), **options)
    assert outputs(written(target, drafters(family, target)[name], **options)) == outputs(plain)
    assert plain[0].sequence.cache.reading.refreshes == 6


@cases("config family name", CONFIGS, RUNNERS, ["model", "pyramid", "recycling", "skip"])
def test_however_swaps_are_made(family: Family, config: str, name: str) -> None:
    target = selecting(family.target, CONFIGS[config])
    drafter = drafters(family, target)[name]
    options = {"temperature": 0.7, "end_ids": (0,)}
    plain = written(target, NoDrafter(), **options)
    assert outputs(written(target, drafter, **options)) == outputs(plain)


def test_the_matrix_swaps_and_its_texts_depend_on_it(family: Family) -> None:
    """Otherwise it would prove nothing."""
    dense = outputs(written(family.target, NoDrafter()))
    moving = undrafted(family, "greedy")[1]
    still = outputs(written(selecting(family.target, replace(SWAPPING, refresh=0)), NoDrafter()))
    for g in moving[:2]:
        reading = g.sequence.cache.reading
        assert reading.refreshes == 2 and reading.swaps >= 2
    assert len({dense[1], outputs(moving)[1], still[1]}) == 3


@cases("name family sampling", ["model", "tree", "pyramid", "deep"], RUNNERS, SAMPLINGS)
def test_selection_below_the_target_changes_no_text(
    family: Family, name: str, sampling: str
) -> None:
    options = {**SAMPLINGS[sampling], "max_new_tokens": 26}
    plain = written(family.target, NoDrafter(), **options)
    drafted = written(family.target, drafters(family, family.target)[name], **options)
    assert outputs(drafted) == outputs(plain)
    assert sum(g.counters.accepted for g in drafted) > 5


@cases("budget family", [4, 8, 20], RUNNERS)
def test_a_drafter_into_which_nothing_fits_stands_aside(family: Family, budget: int) -> None:
    """Not even its smallest chunk, or not what is pinned; the request goes on undrafted."""
    context = PROMPTS[1].context
    assert context is not None
    prompts = [replace(PROMPTS[1], context=context.pin(*range(len(context.chunks)))), PROMPTS[0]]
    small = selecting(family.draft, replace(SWAPPING, budget=budget))
    model = ModelDrafter(model=small)
    nest = Qualified(drafter=model, qualifier=small, policy=FixedLength(3))
    plain = written(family.target, NoDrafter(), prompts)
    for drafter in (model, TreeDrafter(model=small, growth=Eagle2(width=3)), nest):
        assert outputs(written(family.target, drafter, prompts)) == outputs(plain)


@cases("name family", list(free()), RUNNERS)
def test_free_drafters_over_a_selection(family: Family, name: str) -> None:
    target = selecting(family.target)
    plain = written(target, NoDrafter(), temperature=0.6)
    assert outputs(written(target, free()[name](), temperature=0.6)) == outputs(plain)


def test_a_fuzzy_rule_works_over_a_selection(family: Family) -> None:
    target = selecting(family.target)
    nest = drafters(family, target)["pyramid"]
    rule = Fuzzy(divergence="js", threshold=0.2)
    gs = run(stage(target, nest, rule), PROMPTS, max_new_tokens=20, temperature=0.8)
    assert all(len(g.output) == 20 for g in gs)
    assert sum(g.counters.changed for g in gs) > 0


def test_samples_of_one_prompt_choose_for_themselves(family: Family) -> None:
    target = selecting(family.target)
    nest = drafters(family, target)["pyramid"]

    def five(drafter: Drafter) -> list[Generation]:
        whole = stage(target, drafter)
        return samples(whole, PROMPTS[1], 5, temperature=1.0, max_new_tokens=17)

    plain, drafted = five(NoDrafter()), five(nest)
    assert outputs(drafted) == outputs(plain)
    chosen = {
        tuple(decision.chosen for decision in g.sequence.cache.selection.decisions) for g in plain
    }
    assert len(chosen) > 1


@cases("config family", CONFIGS, RUNNERS)
def test_the_next_turn_reads_what_a_fresh_start_would(family: Family, config: str) -> None:
    target = selecting(family.target, CONFIGS[config])
    nest = drafters(family, target)["pyramid"]
    [first] = written(target, nest, PROMPTS[1:2])
    ids = (*PROMPTS[1].token_ids, *first.output, 5, 6)
    turn = replace(PROMPTS[1], token_ids=ids)
    [again] = run(stage(target, nest), [turn], previous=[first.sequence], max_new_tokens=20)
    [fresh] = written(target, NoDrafter(), [turn], max_new_tokens=20)
    assert again.output == fresh.output


def test_prompts_without_a_long_input_are_read_as_they_are(family: Family) -> None:
    target = selecting(family.target)
    prompts = [(5, 9, 40, 3), (7,)]
    assert outputs(run(stage(target, NoDrafter()), prompts)) == outputs(
        run(stage(family.target, NoDrafter()), prompts)
    )
    mixed = written(target, NoDrafter(), [PROMPTS[0], prompts[0]])
    assert mixed[0].output == written(target, NoDrafter(), PROMPTS[:1])[0].output
