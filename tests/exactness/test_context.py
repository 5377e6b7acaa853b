"""Models that select what they read: drafted and undrafted texts are equal, swaps or no swaps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider import kernels
from outrider.acceptance import Fuzzy
from outrider.context.config import ContextConfig
from outrider.context.selector import Selected, select
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters import Lookup, ModelDrafter, NoDrafter, Qualified
from outrider.drafters.layers.del_ import DynamicExit
from outrider.drafters.layers.skip import EvenSkip
from outrider.drafters.layers.swift import Swift
from outrider.drafters.neural.growth import Eagle2
from outrider.drafters.neural.tree import TreeDrafter
from outrider.drafters.statistics.recycling import TokenRecycling
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.transformers.model import TransformersModel
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter, LanguageModel
from tests.context.toys import Wandering, long_prompt
from tests.exactness.setups.rigs import Family, generation, outputs, run, stage
from tests.exactness.setups.roster import free
from tests.exactness.test_checkpoints import SHAPE, noisy
from tests.models.make_checkpoints import make_checkpoint

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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> list[Path]:
    """Target, qualifier, small and draft: each further from the target."""
    root, made = tmp_path_factory.mktemp("context"), []
    for i, amount in enumerate((0.0, 0.1, 0.2, 0.3)):
        path = make_checkpoint(
            root / str(i), "llama", dtype=torch.float64, num_hidden_layers=4, **SHAPE
        )
        if amount:
            noisy(path, i, amount)
        made.append(path)
    return made


RUNNERS: dict[str, Any] = {
    "decoder": lambda path: Decoder.load(path, dtype=torch.float64),
    "transformers": lambda path: TransformersModel.load(path, dtype=torch.float64),
}
if kernels.available():
    RUNNERS["native"] = lambda path: NativeDecoder.load(path, dtype=torch.float32, threads=1)


@pytest.fixture(scope="module", params=RUNNERS)
def family(request: Any, folders: list[Path]) -> Family:
    return Family(*(RUNNERS[request.param](folder) for folder in folders))


def selecting(model: LanguageModel, config: ContextConfig = SWAPPING, seed: int = 0) -> Selected:
    return select(model, Wandering(seed), config)


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


def once_with_transformers(family: Family, name: str, chosen: str) -> None:
    """Its forwards are slow: one case of each kind is enough."""
    if name != chosen and isinstance(family.target, TransformersModel):
        pytest.skip(f"{chosen} alone, for time")


def written(
    target: LanguageModel, drafter: Drafter, prompts: Sequence[Any] = PROMPTS, **options: Any
) -> list[Generation]:
    whole = stage(target, drafter, policy=TREE)
    gs = [generation(p, **{"max_new_tokens": 26, **options}) for p in prompts]
    for _ in generate(whole, gs):
        pass
    return gs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drafted_equals_undrafted_on_a_target_that_selects(
    family: Family, sampling: str, name: str
) -> None:
    once_with_transformers(family, sampling, "t0.8")
    target = selecting(family.target)
    drafter = drafters(family, target)[name]
    plain = written(target, NoDrafter(), **SAMPLINGS[sampling])
    drafted = written(target, drafter, **SAMPLINGS[sampling])
    assert outputs(drafted) == outputs(plain)
    alone = written(target, drafter, PROMPTS[1:2], **SAMPLINGS[sampling])
    assert outputs(alone) == outputs(plain[1:2])
    for one, other in zip(drafted, plain, strict=True):
        ours, theirs = (g.lane.cache.selection.looks for g in (one, other))
        assert [look.chosen for look in ours] == [look.chosen for look in theirs]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ["model", "pyramid", "recycling", "skip"])
def test_however_swaps_are_made(family: Family, config: str, name: str) -> None:
    once_with_transformers(family, name, "pyramid")
    target = selecting(family.target, CONFIGS[config])
    drafter = drafters(family, target)[name]
    options = {"temperature": 0.7, "end_ids": (0,)}
    plain = written(target, NoDrafter(), **options)
    assert outputs(written(target, drafter, **options)) == outputs(plain)


def test_the_matrix_swaps_and_its_texts_depend_on_it(family: Family) -> None:
    """Otherwise it would prove nothing."""
    dense = outputs(written(family.target, NoDrafter()))
    moving = written(selecting(family.target), NoDrafter())
    still = outputs(written(selecting(family.target, replace(SWAPPING, refresh=0)), NoDrafter()))
    for g in moving[:2]:
        reading = g.lane.cache.reading
        assert reading.refreshes == 6 and reading.swaps >= 4
    assert len({dense[1], outputs(moving)[1], still[1]}) == 3


@pytest.mark.parametrize("name", ["model", "tree", "pyramid", "deep"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_selection_below_the_target_changes_no_text(
    family: Family, sampling: str, name: str
) -> None:
    once_with_transformers(family, sampling, "t0.8")
    plain = written(family.target, NoDrafter(), **SAMPLINGS[sampling])
    drafted = written(family.target, drafters(family, family.target)[name], **SAMPLINGS[sampling])
    assert outputs(drafted) == outputs(plain)
    assert sum(g.counters.accepted for g in drafted) > 5


@pytest.mark.parametrize("budget", [4, 8, 20])
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


@pytest.mark.parametrize("name", list(free()))
def test_free_drafters_over_a_selection(family: Family, name: str) -> None:
    once_with_transformers(family, name, "sam")
    target = selecting(family.target)
    plain = written(target, NoDrafter(), temperature=0.6)
    assert outputs(written(target, free()[name](), temperature=0.6)) == outputs(plain)


def test_a_fuzzy_rule_works_over_a_selection(family: Family) -> None:
    target = selecting(family.target)
    nest = drafters(family, target)["pyramid"]
    rule = Fuzzy(divergence="js", threshold=0.2)
    gs = [generation(p, max_new_tokens=20, temperature=0.8) for p in PROMPTS]
    for _ in generate(stage(target, nest, rule), gs):
        pass
    assert all(len(g.output) == 20 for g in gs)
    assert sum(g.counters.changed for g in gs) > 0


def test_samples_of_one_prompt_choose_for_themselves(family: Family) -> None:
    target = selecting(family.target)
    nest = drafters(family, target)["pyramid"]

    def five(drafter: Drafter) -> list[Generation]:
        gs = [
            generation(PROMPTS[1], temperature=1.0, sample=i, max_new_tokens=17) for i in range(5)
        ]
        for _ in generate(stage(target, drafter), gs):
            pass
        return gs

    plain, drafted = five(NoDrafter()), five(nest)
    assert outputs(drafted) == outputs(plain)
    chosen = {tuple(look.chosen for look in g.lane.cache.selection.looks) for g in plain}
    assert len(chosen) > 1


@pytest.mark.parametrize("config", CONFIGS)
def test_the_next_turn_reads_what_a_fresh_start_would(family: Family, config: str) -> None:
    target = selecting(family.target, CONFIGS[config])
    nest = drafters(family, target)["pyramid"]
    [first] = written(target, nest, PROMPTS[1:2])
    ids = (*PROMPTS[1].token_ids, *first.output, 5, 6)
    turn = replace(PROMPTS[1], token_ids=ids)
    again = generation(turn, max_new_tokens=20)
    for _ in generate(stage(target, nest), [again], [first.lane]):
        pass
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
