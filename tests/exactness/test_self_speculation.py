"""I1, I3 and I6 for drafters that are a part of the target, in every runner."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from outrider.acceptance import Match, RecursiveRejection, Rejection
from outrider.core.layers import LayerSet
from outrider.decoding import generate
from outrider.drafters import Fallback, Lookup, NoDrafter, Qualified, TreeDrafter
from outrider.drafters.layers.del_ import DynamicExit
from outrider.drafters.layers.layer_search import LayerSetSearch, SearchSettings
from outrider.drafters.layers.skip import EvenSkip
from outrider.drafters.layers.swift import Swift
from outrider.drafters.neural.growth import DySpec, Eagle2, Spine
from outrider.models.llama.decoder import Decoder
from outrider.policies import FixedLength, FixedTree
from tests.exactness.setups.checkpoints import PROMPTS, RUNNERS
from tests.exactness.setups.rigs import (
    SAMPLINGS,
    generation,
    next_turn,
    outputs,
    run,
    samples,
    stage,
    undrafted,
)
from tests.matrix import matrix
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.make_checkpoints import make_checkpoint

LAYERS = 4


def checkpoint(path: Path) -> Path:
    """Layers whose say grows less with depth, so that some of them can be spared."""
    made = make_checkpoint(
        path, "llama", num_hidden_layers=LAYERS, vocab_size=48, std=0.25, dtype=torch.float64
    )
    model = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float64)
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.self_attn.o_proj.weight.mul_(0.4)
            layer.mlp.down_proj.weight.mul_(0.4)
    model.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def target(request: Any, folder: Path) -> Any:
    return RUNNERS[request.param](folder)


@pytest.fixture(scope="module")
def eager(folder: Path) -> Decoder:
    return RUNNERS["eager"](folder)


def drafters(target: Any) -> dict[str, Any]:
    """One of each, the searching ones in the midst of it all the time."""
    search = SearchSettings(skip_ratio=0.5, context=4, good=2.0, surrogate_every=3)
    return {
        "skip": EvenSkip(model=target, speedup=2),
        "halves": EvenSkip(model=target, layers=LayerSet.skipping(4, attention=[0, 2], mlp=[1])),
        "swift": Swift(model=target, settings=search, confidence=0.1),
        "del": DynamicExit(model=target, every=1, confidence=0.1),
        "tree": Swift(model=target, settings=search, confidence=0.1, growth=Spine()),
    }


NAMES = ("skip", "halves", "swift", "del", "tree")
each_once = pytest.mark.parametrize(
    ("target", "name"), matrix(RUNNERS, NAMES), indirect=["target"], scope="module"
)
"""In the fast set every runner and every drafter once."""


@pytest.mark.parametrize(
    ("target", "name", "sampling"),
    matrix(RUNNERS, NAMES, SAMPLINGS),
    indirect=["target"],
    scope="module",
)
def test_drafted_equals_undrafted(target: Any, name: str, sampling: str) -> None:
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 10, "end_ids": (0,)}
    whole = stage(target, drafters(target)[name], window=4)
    plain = run(undrafted(whole), PROMPTS, **options)
    drafted = run(whole, PROMPTS, **options)
    assert outputs(drafted) == outputs(plain)
    assert outputs(run(whole, PROMPTS[2:3], **options)) == outputs(plain[2:3])
    for g in drafted:
        assert g.counters.tokens == len(g.output) == sum(g.counters.sources.values())


@each_once
def test_drafts_are_accepted_and_refused(target: Any, name: str) -> None:
    made = drafters(target)[name]
    [g] = run(stage(target, made, window=4), PROMPTS[:1], max_new_tokens=60, temperature=0.7)
    assert 3 < g.counters.accepted < g.counters.drafted
    assert set(g.sources) == {made.name, "target"} and set(g.counters.tallies) == {made.name}
    if name in ("swift", "tree"):
        assert made.search.tries == 6  # all sets of two halves of the four


@each_once
def test_caches_are_the_targets_own_after_every_round(target: Any, name: str) -> None:
    tolerance = 1e-9 if target.dtype == torch.float64 else 0.0
    made = [generation(p, temperature=0.8, max_new_tokens=12) for p in PROMPTS[:3]]
    whole = stage(target, drafters(target)[name], window=3)
    for active in generate(whole, made):
        for g in active:
            assert_equals_fresh_prefill(target, g.sequence.cache, tolerance=tolerance)


@each_once
def test_samples_that_share_a_prompt(target: Any, name: str) -> None:
    def four(drafter: Any) -> list[tuple[int, ...]]:
        whole = stage(target, drafter, window=3)
        return outputs(samples(whole, PROMPTS[0], 4, temperature=1.0, max_new_tokens=14))

    texts = four(drafters(target)[name])
    assert texts == four(NoDrafter()) and len(set(texts)) == 4


@each_once
def test_next_turn(target: Any, name: str) -> None:
    whole = stage(target, drafters(target)[name], window=3)
    first, second = next_turn(whole, PROMPTS[0], 9, max_new_tokens=12, temperature=0.8)
    assert second.sequence.cache is first.sequence.cache
    assert_equals_fresh_prefill(
        target, second.sequence.cache, tolerance=1e-9 if target.dtype == torch.float64 else 0.0
    )


@pytest.mark.parametrize("target", RUNNERS, indirect=True, scope="module")
def test_skipping_nothing_is_always_right(target: Any) -> None:
    whole = stage(target, EvenSkip(model=target, speedup=1), window=4)
    for temperature in (0.0, 1.0):
        [g] = run(whole, PROMPTS[:1], max_new_tokens=30, temperature=temperature)
        assert g.counters.accepted == g.counters.drafted == 24 and g.counters.rounds == 6


@settings(max_examples=20)
@given(
    kept=st.tuples(st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3))).filter(any),
    confidence=st.sampled_from([None, 0.3]),
    window=st.integers(1, 6),
    seed=st.integers(0, 2**30),
    temperature=st.sampled_from([0.0, 0.8]),
    prompts=st.lists(st.lists(st.integers(0, 47), min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_any_set_of_layers(
    eager: Decoder, kept, confidence, window, seed, temperature, prompts
) -> None:
    layers = LayerSet(num_layers=LAYERS, attention=tuple(kept[0]), mlp=tuple(kept[1]))
    drafter = EvenSkip(model=eager, layers=layers, confidence=confidence)
    options = {"seed": seed, "temperature": temperature, "max_new_tokens": 10, "end_ids": (0,)}
    drafted = run(stage(eager, drafter, window=window), prompts, **options)
    for prompt, g in zip(prompts, drafted, strict=True):
        [alone] = run(stage(eager, NoDrafter()), [prompt], **options)
        assert g.output == alone.output
        assert len(g.counters.drafted_at) <= window


@pytest.mark.parametrize(
    ("target", "name", "temperature"),
    matrix(RUNNERS, NAMES, [0.0, 0.9], crossed=1),
    indirect=["target"],
    scope="module",
)
def test_below_a_qualifier(target: Any, folder: Path, name: str, temperature: float) -> None:
    """Tails: the part of the target drafts on from tokens that only the qualifier has accepted."""
    qualifier = Decoder.load(folder, dtype=torch.float32)
    nest = Qualified(drafter=drafters(target)[name], qualifier=qualifier, policy=FixedLength(2))
    options: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 14}
    plain = run(stage(target, NoDrafter()), PROMPTS, **options)
    drafted = run(stage(target, nest, window=7), PROMPTS, **options)
    assert outputs(drafted) == outputs(plain)
    assert sum(g.counters.sources.get(nest.drafter.name, 0) for g in drafted) > 0


@each_once
def test_beside_other_drafters(target: Any, name: str) -> None:
    """Two that borrow the same cache, and one that asks no model, in turns."""
    second = Fallback(first=drafters(target)[name], second=EvenSkip(model=target, name="other"))
    whole = stage(target, Fallback(first=Lookup(), second=second), window=3)
    plain = run(undrafted(whole), PROMPTS, max_new_tokens=12)
    assert outputs(run(whole, PROMPTS, max_new_tokens=12)) == outputs(plain)


@pytest.mark.parametrize(
    "runner",
    [
        pytest.param(name, marks=() if name in ("eager", "int8") else pytest.mark.slow)
        for name in RUNNERS
    ],
)
def test_trees_larger_than_the_window(runner: str, tmp_path: Path) -> None:
    """Trees of more nodes than the window has places, up to its last one: texts end where they
    would without, and one that starts there is drafted for as far as it goes."""
    made = make_checkpoint(
        tmp_path, num_hidden_layers=LAYERS, vocab_size=48, max_position_embeddings=32
    )
    model = RUNNERS[runner](made)
    assert model.info.context_length == 32
    prompts = [PROMPTS[2] * 4, (*PROMPTS[2] * 4, 1, 2), (*PROMPTS[2] * 4, 1, 2, 3), PROMPTS[0]]
    plain = run(stage(model, NoDrafter()), prompts, max_new_tokens=50)
    assert [len(g.output) for g in plain] == [4, 2, 1, 28]
    for drafter in (
        EvenSkip(model=model, growth=Eagle2(width=6)),
        TreeDrafter(model=model, growth=DySpec()),
    ):
        whole = stage(model, drafter, policy=FixedTree(depth=40, nodes=60))
        assert outputs(run(whole, prompts, max_new_tokens=50)) == outputs(plain)


@pytest.mark.parametrize(
    ("growth", "rule"),
    matrix([Spine(), Spine((1, 1, 2, 3)), Eagle2()], [Match(), RecursiveRejection()]),
)
def test_trees(eager: Decoder, growth: Any, rule: Any) -> None:
    """Branches are drafted, verified and kept, and the target's cache stays its own."""
    layers = LayerSet.skipping(LAYERS, attention=[2], mlp=[3])
    drafter = EvenSkip(model=eager, layers=layers, growth=growth)
    whole = stage(eager, drafter, rule, policy=FixedTree(depth=3, nodes=12))
    made = [generation(p, temperature=1.5, max_new_tokens=20) for p in PROMPTS[:3]]
    for active in generate(whole, made):
        for g in active:
            assert_equals_fresh_prefill(eager, g.sequence.cache)
    assert sum(g.counters.accepted for g in made) > 5
    assert sum(g.counters.drafted for g in made) > sum(g.counters.rounds for g in made)
    if isinstance(rule, Match):
        plain = run(stage(eager, NoDrafter()), PROMPTS[:3], temperature=1.5, max_new_tokens=20)
        assert outputs(made) == outputs(plain)


@pytest.mark.parametrize("name", ["skip", "halves", "swift", "del"])
def test_drafts_under_rejection(eager: Decoder, name: str) -> None:
    """The distributions that it names are those of the part: with all layers, nothing is ever
    refused."""
    made = drafters(eager)[name]
    [g] = run(
        stage(eager, made, Rejection(), window=3), PROMPTS[:1], max_new_tokens=30, temperature=1.0
    )
    assert 0 < g.counters.accepted < g.counters.drafted
    everything = EvenSkip(model=eager, speedup=1)
    [g] = run(
        stage(eager, everything, Rejection(), window=3),
        PROMPTS[:1],
        max_new_tokens=28,
        temperature=1.0,
    )
    assert g.counters.accepted == g.counters.drafted == 21


def test_a_search_goes_on_from_text_to_text(eager: Decoder) -> None:
    search = SearchSettings(skip_ratio=0.5, context=4, good=2.0, most_tries=7, most_misses=50)
    drafter = Swift(model=eager, settings=search, search=LayerSetSearch(LAYERS, search))
    plain = run(stage(eager, NoDrafter()), PROMPTS, max_new_tokens=20)
    for prompt, expected in zip(PROMPTS, outputs(plain), strict=True):
        [g] = run(stage(eager, drafter, window=2), [prompt], max_new_tokens=20)
        assert tuple(g.output) == expected
    assert drafter.search.tries == 6 and drafter.search.done  # of six sets of two halves in four
