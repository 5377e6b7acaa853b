"""The search for layers that can be left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.layers import LayerSet
from outrider.core.types import Prompt, as_ids
from outrider.drafters.layers.layer_search import LayerSetSearch, SearchSettings
from outrider.drafters.layers.swift import Swift
from outrider.models.llama.decoder import Decoder
from outrider.protocols import Segment
from tests.drafters.layers.layer_rigs import PROMPTS, QUICK
from tests.exactness.setups.rigs import run, stage

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.method("swift")]


@pytest.mark.usefixtures("unchecked")
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


@pytest.mark.usefixtures("unchecked")
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
    forwards = sum(g.sequence.state.counters.forwards for g in made)
    assert forwards == drafted + 5, "window 1: a forward for each drafted token, one for each try"
    assert drafter.search.prompt is None


def test_the_search_keeps_one_more_prompt(model: Decoder) -> None:
    drafter = Swift(model=model, settings=QUICK)
    made = run(stage(model, drafter, window=1), PROMPTS, max_new_tokens=12)
    kept = drafter.search.prompt
    assert tuple(kept.text) in PROMPTS and len(kept.storage.readers) == 1
    assert all(g.sequence.cache.storage is not kept.storage for g in made)
    assert all(len(g.sequence.cache.storage.readers) == 1 for g in made)


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
        ("{", "not a saved set"),
        ("[]", "not a saved set"),
        (json.dumps(saved | {"format": 9}), "not a saved set"),
        (json.dumps(saved | {"model": "?"}), "another model"),
        (json.dumps(saved | {"score": None}), "not a saved search"),
        (json.dumps(saved | {"layers": LayerSet.exit_at(4, 2).to_dict()}), "4 layers"),
        (json.dumps(saved | {"layers": LayerSet.exit_at(6, 2).to_dict()}), "first or the last"),
    ):
        path.write_text(wrong)
        with pytest.raises(OptionError, match=words):
            other.load(path)
    drafter.save(path)
    sparser = Swift(model=other.model, settings=SearchSettings(skip_ratio=0.25))
    before = sparser.search.layers
    with pytest.raises(OptionError, match="leaves out 3 halves, but this search 2"):
        sparser.load(path)
    assert sparser.search.layers == before
    with pytest.raises(OptionError):
        other.load(tmp_path / "missing.json")
