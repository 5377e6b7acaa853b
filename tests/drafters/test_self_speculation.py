"""Drafting with a part of the target: searches, exits, even sets, and what they cost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.acceptance import Match
from outrider.drafters import NoDrafter, Qualified
from outrider.drafters.dynamic_exit import DynamicExit
from outrider.drafters.exit_rates import Exit, ExitRates, tokens_per_layer
from outrider.drafters.layer_search import LayerSetSearch, SearchSettings
from outrider.drafters.skip import EvenSkip
from outrider.drafters.swift import Swift
from outrider.errors import OptionError, StrategyError
from outrider.layers import LayerSet
from outrider.models.decoder import Decoder
from outrider.models.skipping import SkippingModel
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength
from outrider.protocols import Drafter, LanguageModel, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.tree import chain_parents
from outrider.types import NO_IDS, Budget, Draft, Exactness, Prompt, Rows, Verified, as_ids
from outrider.view import View
from tests.exactness.rigs import outputs, run, stage
from tests.models.checkpoints import make_checkpoint

LAYERS = 6
PROMPTS = [(5, 9, 40, 3), (7,), (11, 12, 13, 14, 15)]
QUICK = SearchSettings(context=4, good=2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("model"), num_hidden_layers=LAYERS, vocab_size=48, std=0.15
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return Decoder.load(folder, dtype=torch.float64)


def all_of(model: Any) -> list[Any]:
    return [EvenSkip(model=model), Swift(model=model, settings=QUICK), DynamicExit(model=model)]


def request_of(model: Any, prompt: Sequence[int] = PROMPTS[0], **options: Any) -> Request:
    read = Prompt(token_ids=tuple(prompt))
    request = Request(read, Sampler(SamplingParams.of(seed=5, **options), prompt_ids=prompt))
    [request.target_cache] = model.start([read])
    return request


# -- what all of them are ----------------------------------------------------------------------


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
        with pytest.raises(StrategyError, match="TabularModel can not"):
            make(model=table)
    twin = Decoder.load(folder)
    for drafter in all_of(model):
        with pytest.raises(StrategyError, match="has not filled"):
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


def test_confidence_ends_drafts(model: Decoder) -> None:
    def drafted(**options: Any) -> int:
        whole = stage(model, EvenSkip(model=model, **options), window=6)
        [g] = run(whole, PROMPTS[:1], max_new_tokens=30)
        return max(len(g.counters.drafted_at), 1)

    assert drafted() == drafted(confidence=0.0) == 6
    assert drafted(confidence=1.0) == 1


# -- the search --------------------------------------------------------------------------------


@given(st.integers(4, 40), st.floats(0.3, 0.9), st.integers(1, 60), st.integers(0, 99))
def test_every_set_keeps_both_ends_and_the_budget(
    layers: int, ratio: float, tries: int, seed: int
) -> None:
    settings = SearchSettings(skip_ratio=ratio, surrogate_every=5, good=2.0, seed=seed)
    search = LayerSetSearch(layers, settings)
    scores = np.random.default_rng(seed)
    for _ in range(tries):
        bits = search.propose()
        kept = search.layers_of(bits)
        assert bits.sum() == int(ratio * 2 * (layers - 2)) == 2 * layers - kept.num_halves
        for half in (kept.attention, kept.mlp):
            assert half[0] == 0 and half[-1] == layers - 1
        search.note(bits, float(scores.random()))
    assert search.layers_of(search.best).num_halves == search.layers.num_halves


def test_the_first_set_skips_odd_layers() -> None:
    search = LayerSetSearch(12, SearchSettings(skip_ratio=0.5))
    assert search.layers == LayerSet.of_layers(12, [0, 2, 4, 6, 8, 10, 11])
    search = LayerSetSearch(6)
    assert search.budget == 3 and search.layers.attention == (0, 2, 4, 5)


def test_the_surrogate_beats_chance() -> None:
    """On a score that falls with the distance from a hidden set."""
    settings = SearchSettings(surrogate_every=2, good=2.0)
    search = LayerSetSearch(20, settings)
    hidden = search._sample()
    by_chance, by_surrogate = [], []
    for _ in range(120):
        surrogate = (search.tries + 1) % 2 == 0 and search.tries > 1
        bits = search.propose()
        score = float((bits == hidden).mean())
        (by_surrogate if surrogate else by_chance).append(score)
        search.note(bits, score)
    assert np.mean(by_surrogate[20:]) > np.mean(by_chance) + 0.15
    assert search.score > 0.85


def test_when_the_search_ends() -> None:
    def tried(settings: SearchSettings, score: float, layers: int = 30) -> int:
        search = LayerSetSearch(layers, settings)
        while not search.done:
            search.note(search.propose(), score)
        return search.tries

    assert tried(SearchSettings(), 0.95) == 1
    assert tried(SearchSettings(most_misses=20), 0.5) == 21
    assert tried(SearchSettings(most_misses=99, most_tries=30), 0.5) == 30
    assert tried(SearchSettings(skip_ratio=0.5), 0.5, layers=4) == 6, "there are no more sets"


def test_new_text_new_scores() -> None:
    search = LayerSetSearch(10)
    first, second = object(), object()
    search.begin(first)
    search.note(search.propose(), 0.4)
    best = search._fresh()
    search.note(best, 0.8)
    assert search.score == 0.8
    search.begin(second)
    assert search.score < 0 and search.propose() is best and search.tries == 2


def test_what_a_search_remembers_is_bounded() -> None:
    search = LayerSetSearch(40, SearchSettings(surrogate_every=10**6, good=2.0))
    while not search.done:
        search.note(search.propose(), 0.1 + 1e-6 * search.tries)
    assert search.tries == 1000 and search.nbytes < 76 * 1300 + 8 * 256


def test_a_try_scores_what_would_have_been_drafted(model: Decoder) -> None:
    """The score is the share of tokens at which the part's choice is the target's."""
    sampled: dict[str, Any] = {"temperature": 0.9}
    for options in ({}, sampled):
        drafter = Swift(model=model, settings=SearchSettings(context=9, good=2.0))
        whole = stage(model, drafter, window=2)
        [g] = run(whole, PROMPTS[:1], max_new_tokens=11, **options)
        assert drafter.search.tries >= 1
        bits, score = drafter.search._sets[0], drafter.search._scores[0]
        part = model.subset(drafter.search.layers_of(bits))
        [cache] = model.start([Prompt(token_ids=PROMPTS[0])])
        written = g.output[:10]
        [rows] = part.forward([Segment(cache, as_ids(written[:-1]))], [np.arange(-1, 9)])
        sampler = g.request.sampler
        right = [sampler.choose(rows.logits[i], written[:i]) == t for i, t in enumerate(written)]
        assert score == pytest.approx(np.mean(right))


def test_skipping_little_scores_high_and_ends_the_search(model: Decoder) -> None:
    with torch.inference_mode():
        weights: Any = model.weights.layers[2]
        saved = weights.output.weight.clone(), weights.down.weight.clone()
        weights.output.weight.zero_()
        weights.down.weight.zero_()
    try:
        settings = SearchSettings(skip_ratio=0.25, context=8, most_misses=10**6)
        drafter = Swift(model=model, settings=settings)
        whole = stage(model, drafter, window=2)
        for prompt in PROMPTS * 3:
            run(whole, [prompt], max_new_tokens=60)
        search = drafter.search
        assert search.done and search.score == 1.0
        assert 2 not in search.layers.layers
        [g] = run(whole, PROMPTS[:1], max_new_tokens=60)
        assert g.counters.accepted == g.counters.drafted
    finally:
        with torch.inference_mode():
            weights.output.weight.copy_(saved[0])
            weights.down.weight.copy_(saved[1])


def test_one_try_a_round_and_none_after_the_end(model: Decoder) -> None:
    settings = SearchSettings(context=4, good=2.0, most_tries=5)
    drafter = Swift(model=model, settings=settings, confidence=0.0)
    made = run(stage(model, drafter, window=1), PROMPTS, max_new_tokens=40)
    assert drafter.search.tries == 5 and drafter.search.done
    assert sum(g.counters.rounds for g in made) > 20
    drafted = sum(g.counters.drafted for g in made)
    forwards = sum(g.lane.state.counters.forwards for g in made)
    assert forwards == drafted + 5, "window 1: a forward for each drafted token, one for each try"
    assert drafter.search.prompt is None


def test_the_search_keeps_one_more_prompt(model: Decoder) -> None:
    drafter = Swift(model=model, settings=QUICK)
    made = run(stage(model, drafter, window=1), PROMPTS, max_new_tokens=12)
    kept = drafter.search.prompt
    assert tuple(kept.text) in PROMPTS and len(kept.storage.readers) == 1
    assert all(g.lane.cache.storage is not kept.storage for g in made)
    assert all(len(g.lane.cache.storage.readers) == 1 for g in made)


def test_a_saved_set_can_be_loaded(model: Decoder, folder: Path, tmp_path: Path) -> None:
    drafter = Swift(model=model, settings=QUICK)
    run(stage(model, drafter, window=2), PROMPTS[:1], max_new_tokens=20)
    path = tmp_path / "layers.json"
    drafter.save(path)
    other = Swift(model=Decoder.load(folder), settings=QUICK)  # the same weights in float32
    other.load(path)
    for name in ("layers", "score", "tries", "misses"):
        assert getattr(other.search, name) == getattr(drafter.search, name)
    saved = json.loads(path.read_text())
    for wrong, words in (
        ("{", "no saved set"),
        ("[]", "no saved set"),
        (json.dumps(saved | {"format": 9}), "no saved set"),
        (json.dumps(saved | {"model": "?"}), "another model"),
        (json.dumps(saved | {"score": None}), "no saved search"),
        (json.dumps(saved | {"layers": LayerSet.exit_at(4, 2).to_dict()}), "4 layers"),
        (json.dumps(saved | {"layers": LayerSet.exit_at(6, 2).to_dict()}), "first or the last"),
    ):
        path.write_text(wrong)
        with pytest.raises(OptionError, match=words):
            other.load(path)
    drafter.save(path)
    sparser = Swift(model=other.model, settings=SearchSettings(skip_ratio=0.25))
    before = sparser.search.layers
    with pytest.raises(OptionError, match="leaves out 3 halves, this search 2"):
        sparser.load(path)
    assert sparser.search.layers == before
    with pytest.raises(OptionError):
        other.load(tmp_path / "missing.json")


# -- exits -------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.integers(1, 40), st.integers(0, 30), st.integers(2, 60))
def test_tokens_per_layer(rate: float, exit_after: int, length: int, layers: int) -> None:
    assert tokens_per_layer(rate, exit_after, 0, layers) == pytest.approx(1 / layers)
    expected = sum(rate**i for i in range(length + 1)) / (length * exit_after + layers)
    assert tokens_per_layer(rate, exit_after, length, layers) == pytest.approx(expected)
    if length and rate < 0.99:
        assert tokens_per_layer(rate + 0.01, exit_after, length, layers) > expected
    assert tokens_per_layer(rate, exit_after, length, layers, head=1.0) < expected


def test_where_nothing_is_right_nothing_is_drafted() -> None:
    rates = ExitRates(12)
    rates.right[:] = 0.0
    assert rates.best(16) is None
    rates.right[:] = rates.tested
    assert rates.best(0) is None


def test_a_layer_that_is_always_right_drafts_to_the_end() -> None:
    rates = ExitRates(12)
    rates.right[:] = 0.0
    rates.right[1] = rates.tested[1]
    assert rates.best(16) == Exit(2, 16, 0.0)
    assert rates.best(5) == Exit(2, 5, 0.0)
    assert rates.best(16, head=0.5) == Exit(2, 16, 0.0)


def test_rates_fade_and_thresholds_lie_between() -> None:
    rates = ExitRates(4, fade=0.5)
    assert rates.rates.tolist() == [0.5, 0.5, 0.5] and rates.thresholds.tolist() == [0, 0, 0]
    matched = np.array([[True, False], [True, True], [False, True]])
    sure = np.array([[0.8, 0.4], [0.9, 0.7], [0.9, 0.2]])
    rates.note(matched, sure)
    assert rates.right == pytest.approx([1.25, 2.25, 1.25])
    assert rates.tested == pytest.approx([2.5, 2.5, 2.5])
    assert rates.thresholds == pytest.approx([0.6, 0.0, 0.0]), "never wrong; surer when wrong"
    rates.note(~matched[:, :1], sure[:, :1])
    assert rates.right == pytest.approx([0.625, 1.125, 1.625])
    assert rates.tested == pytest.approx([2.25, 2.25, 2.25])
    assert rates.thresholds[0] == pytest.approx((0.8 + (0.2 + 0.8) / 1.5) / 2)


def test_wide_vocabularies_look_at_every_other_layer(model: Decoder) -> None:
    assert DynamicExit(model=model).rates.depths.tolist() == [1, 2, 3, 4, 5]
    wide = DynamicExit(model=model, wide_vocabulary=10, every=1)
    assert wide.rates.depths.tolist() == [1, 3, 5]
    plain = run(stage(model, NoDrafter()), PROMPTS, max_new_tokens=20)
    assert outputs(run(stage(model, wide), PROMPTS, max_new_tokens=20)) == outputs(plain)
    assert (wide.rates.tested > 5).all()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("right", [0, 1, 3])
def test_statistics_come_from_valid_rows_only(
    model: Decoder, right: int, temperature: float
) -> None:
    """A draft of five tokens whose first `right` are the target's: the rows of the others count
    for nothing, and each layer's rate is what the model left after that layer says."""
    request = request_of(model, temperature=temperature)
    [truth] = run(stage(model, NoDrafter()), PROMPTS[:1], max_new_tokens=6, temperature=temperature)
    tokens = truth.output[:5]
    tokens[right] = (tokens[right] + 1) % 48
    drafter = DynamicExit(model=model, every=1)
    states = drafter.begin([request])
    drafter.propose(states, [NO_IDS], [Budget.chain(3)])
    draft = Draft(tokens=as_ids(tokens), parents=chain_parents(5), sources=("x",) * 5)
    [rows] = model.forward([Segment(request.target_cache, draft.tokens)], [np.arange(-1, 5)])
    sampler = request.sampler
    verdict = Match()(draft, view_of(draft, rows, sampler))
    assert len(verdict.emitted) == right + 1
    drafter.observe(states, [Verified("target", NO_IDS, draft, rows, verdict)])
    matched = []
    for depth in range(1, LAYERS):
        part = model.subset(LayerSet.exit_at(LAYERS, depth))
        [cache] = model.start([request.prompt])
        read = as_ids(verdict.tokens)
        [seen] = part.forward([Segment(cache, read)], [np.arange(-1, len(read))])
        chosen = [
            sampler.choose(seen.logits[i], list(verdict.emitted[:i])) for i in range(right + 1)
        ]
        matched.append(sum(c == t for c, t in zip(chosen, verdict.emitted, strict=True)))
    assert drafter.rates.tested == pytest.approx([0.95 + right + 1] * 5)
    assert drafter.rates.right == pytest.approx(0.95 * 0.5 + np.array(matched))
    cache: Any = request.target_cache
    assert not cache.watched


def view_of(draft: Draft, rows: Rows, sampler: Sampler) -> View:
    from outrider.counters import Counters

    return View(
        sampler=sampler,
        generated=[],
        draft=draft,
        rows=rows,
        tier=0,
        name="target",
        model="model",
        ledger=Counters(),
    )


def test_statistics_are_taken_every_so_often(model: Decoder) -> None:
    noted: list[int] = []
    for every in (1, 3):
        drafter = DynamicExit(model=model, every=every, confidence=0.0)
        drafter.rates.fade = 1.0
        [g] = run(stage(model, drafter, window=2), PROMPTS[:1], max_new_tokens=31)
        noted.append(int(drafter.rates.tested[0]) - 1)
        assert noted[-1] <= len(g.output)
    assert 31 >= noted[0] > 25 and noted[0] > 2 * noted[1] > 10


def test_statistics_are_taken_below_a_qualifier(model: Decoder) -> None:
    """Several drafts come before one verification, which is watched for any of them."""
    drafter = DynamicExit(model=model, every=2, confidence=0.0)
    drafter.rates.fade = 1.0
    nest = Qualified(drafter=drafter, qualifier=model, policy=FixedLength(1))
    [g] = run(stage(model, nest, window=6), PROMPTS[:1], max_new_tokens=40)
    assert int(drafter.rates.tested[0]) - 1 > 0.8 * len(g.output)


# -- layers left out for good ------------------------------------------------------------------


def test_a_speedup_of_one_is_the_model_itself(model: Decoder) -> None:
    whole = SkippingModel(model, speedup=1)
    assert isinstance(whole, LanguageModel) and whole.layers.is_everything
    plain = run(stage(model, NoDrafter()), PROMPTS, max_new_tokens=20)
    assert outputs(run(stage(whole, NoDrafter()), PROMPTS, max_new_tokens=20)) == outputs(plain)


def by_hand(model: Decoder, layers: LayerSet, prompt: Sequence[int], count: int) -> list[int]:
    """The first token by all layers, the others by `layers` over the prompt as all have read it."""
    [cache] = model.start([Prompt(token_ids=tuple(prompt))])
    part, written = model.subset(layers), []
    for _ in range(count):
        runner = part if written else model
        [rows] = runner.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        written.append(int(rows.logits[0].argmax()))
        cache.commit(written[-1:])
    return written


def test_prompts_by_all_layers_answers_by_some(model: Decoder) -> None:
    lossy = SkippingModel(model, speedup=2)
    assert lossy.layers.layers == (0, 3, 5)
    [g] = run(stage(lossy, NoDrafter()), PROMPTS[:1], max_new_tokens=20)
    assert g.output == by_hand(model, lossy.layers, PROMPTS[0], 20)
    [whole] = run(stage(model, NoDrafter()), PROMPTS[:1], max_new_tokens=20)
    assert g.output != whole.output and g.output[0] == whole.output[0]


def test_each_generated_token_passes_the_kept_layers(model: Decoder) -> None:
    lossy = SkippingModel(model, speedup=3)
    assert isinstance(lossy.part, Decoder)
    passed: list[int] = []

    def counted(layer: Any) -> Any:
        def call(hidden: Any, batch: Any) -> Any:
            passed.append(len(hidden))
            return layer(hidden, batch)

        return call

    lossy.part._layers = [counted(layer) for layer in lossy.part._layers]
    run(stage(lossy, NoDrafter()), PROMPTS[:1], max_new_tokens=20)
    assert passed == [1] * 2 * 19, "two layers a token; the first is the whole model's"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_with_layers_left_out_can_be_a_target(model: Decoder, temperature: float) -> None:
    """Batches, drafts and trees of drafts: the same text; and its promise is that it is lossy."""
    lossy = SkippingModel(model, speedup=2)
    options: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 16}
    plain = outputs(run(stage(lossy, NoDrafter()), PROMPTS, **options))
    for prompt, text in zip(PROMPTS, plain, strict=True):
        assert outputs(run(stage(lossy, NoDrafter()), [prompt], **options)) == [text]
    for drafter in (EvenSkip(model=model), EvenSkip(model=model, speedup=1)):
        drafted = run(stage(lossy, drafter, window=4), PROMPTS, **options)
        assert outputs(drafted) == plain
        assert sum(g.counters.accepted for g in drafted) > 0
    assert Strategy(target=lossy).exactness is Exactness.LOSSY
    assert Strategy(target=model).exactness is Exactness.IDENTICAL


def test_the_next_turn_is_read_by_all_layers(model: Decoder) -> None:
    lossy = SkippingModel(model, speedup=2)
    whole = stage(lossy, NoDrafter())
    [first] = run(whole, PROMPTS[:1], max_new_tokens=10)
    turn = (*PROMPTS[0], *first.output, 4, 4)
    [second] = run(whole, [turn], previous=[first.lane], max_new_tokens=10)
    assert second.lane.cache is first.lane.cache
    assert second.output == by_hand(model, lossy.layers, turn, 10)
