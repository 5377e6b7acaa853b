"""Prompts whose positions have gaps: places, windows, drafts, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import ContextError
from outrider.core.layers import LayerSet
from outrider.core.tree import path_to
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.caches.attaching import attach
from outrider.models.caches.positions import Places
from outrider.models.tabular import TabularModel
from outrider.models.wrappers.skipping import SkippingModel
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS, random_draft, random_emission
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.reference import next_logits, random_ids, tree_logits
from tests.models.setups.seen import PAIRS, Opened, Twin, opened

IDS = random_ids(20)
PLACES = (0, 1, 2, 3, 9, 10, 11, 13, 20, 21, 22, 23, 24, 40, 41, 42, 50, 51, 52, 53)

Ascending = st.sets(st.integers(0, 60), min_size=1, max_size=20).map(sorted)


@given(Ascending, st.integers(0, 25), Ascending)
def test_places_are_those_given(positions: list[int], cut: int, more: list[int]) -> None:
    known = [*positions, *range(positions[-1] + 1, positions[-1] + 10)]
    places = Places.of(as_ids(positions))
    assert [places.at(i) for i in range(len(known))] == known
    for start in range(len(known)):
        assert places.between(start, len(known)).tolist() == known[start:]
        assert places.between(0, start).tolist() == known[:start]
    cut = min(cut, len(known))
    left = places.cut(cut)
    follows = known[cut - 1] + 1 if cut else 0
    assert left.between(0, cut + 3).tolist() == [*known[:cut], follows, follows + 1, follows + 2]
    added = [follows + step for step in more]
    both = left.joined(cut, as_ids(added))
    assert both.between(0, cut + len(added)).tolist() == known[:cut] + added
    assert both.at(cut + len(added)) == added[-1] + 1


def test_places_without_gaps_are_not_kept() -> None:
    assert len(Places.of(np.arange(50)).given) == 0
    assert Places.of(NO_IDS).at(3) == 3


@pytest.fixture(scope="module", params=PAIRS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    kind, runner = request.param
    return opened(kind, runner, tmp_path_factory.mktemp(kind))


def test_chains_and_trees_after_a_gapped_prompt(one: Opened) -> None:
    twin = Twin.start(one, IDS, PLACES)
    assert one.model.reads_gaps and twin.cache.remaining == 256 - 54
    twin.check(one.tolerance)
    for token in (3, 4):
        twin.cache.commit([token])
    twin.check(one.tolerance)
    judge, text = twin.judge, twin.cache.text
    seen = list(twin.entries)
    for i in range(len(seen), len(text)):
        seen.append(judge.note(text[i], twin.places[i], seen))
    notes = {-1: seen}
    for node, parent in enumerate(TREE_PARENTS.tolist()):
        before = notes[parent]
        depth = len(path_to(TREE_PARENTS, node))
        row = judge.note(int(TREE_TOKENS[node]), twin.places[-1] + depth, before)
        notes[node] = [*before, row]
    found = tree_logits(one.model, twin.cache, TREE_TOKENS, TREE_PARENTS)
    expected = judge.logits()[len(seen) - 1 :]
    assert float((found.double() - expected).abs().max()) <= one.tolerance


@pytest.mark.parametrize("chunk", [3, 7])
def test_chunks_of_a_gapped_prompt(
    one: Opened, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", chunk)
    Twin.start(one, IDS, PLACES).check(one.tolerance)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_rounds(one: Opened, seed: int) -> None:
    """Drafts, commits, forks, truncations and the next turn, over prompts with gaps and none."""
    rng, model = np.random.default_rng(seed), one.model
    prompts = [
        Prompt(token_ids=IDS, positions=PLACES),
        Prompt(token_ids=IDS[:5], positions=(7, 8, 30, 31, 90)),
        Prompt(token_ids=IDS[:9]),
    ]
    caches = model.start(prompts)
    for _ in range(5):
        drafts = [random_draft(rng, model.info.vocab_size) for _ in caches]
        pairs = [attach(c, NO_IDS, d) for c, d in zip(caches, drafts, strict=True)]
        model.forward([s for s, _ in pairs], [w for _, w in pairs])
        for cache, draft in zip(caches, drafts, strict=True):
            if rng.random() < 0.3:
                model.forward([Segment(cache, as_ids([3, 4]))], [NO_IDS])
            cache.commit(random_emission(rng, draft))
            if rng.random() < 0.3:
                cache.truncate(int(rng.integers(1, len(cache.text) + 1)))
        caches[int(rng.integers(3))] = caches[int(rng.integers(3))].fork()
        for cache in caches:
            assert_equals_fresh_prefill(model, cache)


def test_writing_goes_on_where_a_gapped_prompt_ends(one: Opened) -> None:
    if one.model.chain_decoder is None:
        pytest.skip("writes by single forwards")
    sampler = Sampler(SamplingParams(temperature=0.0))
    for start in (NO_IDS, as_ids([5])):
        written, looped = (Twin.start(one, IDS, PLACES).cache for _ in range(2))
        [tokens] = one.model.write_chains([ChainRequest(Segment(written, start), sampler, [], 8)])
        text = start.tolist()
        logits = next_logits(one.model, looped) if not text else None
        for token in tokens:
            if logits is None:
                row = looped.num_speculative
                segment = Segment(looped, as_ids(text[-1:]))
                logits = one.model.forward([segment], [as_ids([row])])[0].logits[0]
            assert int(logits.argmax()) == token
            text.append(int(token))
            logits = None
        written.commit(as_ids([*start.tolist(), *tokens.tolist()]))
        assert_equals_fresh_prefill(one.model, written)


def test_the_window_ends_at_a_position(one: Opened) -> None:
    """The last tokens stand at the end of the window, though few tokens do."""
    places = (0, 1, 120, 252, 253)
    twin = Twin.start(one, IDS[:5], places)
    assert twin.cache.remaining == 2
    twin.check(one.tolerance)
    with pytest.raises(ContextError, match="position 256"):
        tree_logits(one.model, twin.cache, as_ids([1, 2, 3]), as_ids([-1, 0, 1]))
    twin.cache.commit([5, 6])
    twin.check(one.tolerance)
    assert twin.cache.remaining == 0


def test_reuse_looks_at_places(one: Opened) -> None:
    model = one.model
    [cache] = model.start([Prompt(token_ids=IDS, positions=PLACES)])
    [same] = model.start([Prompt(token_ids=(*IDS[:12], 5), positions=PLACES[:13])], [cache])
    assert same is cache
    assert_equals_fresh_prefill(model, same)
    [plain] = model.start([Prompt(token_ids=IDS)], [same])
    assert plain is cache and plain.places.shift == 0
    assert_equals_fresh_prefill(model, plain)
    moved = tuple(place + 1 for place in PLACES)
    [other] = model.start([Prompt(token_ids=IDS, positions=moved)], [plain])
    assert other is not cache
    assert_equals_fresh_prefill(model, other)


def test_embeddings_may_have_gaps(one: Opened) -> None:
    rows = one.model.embed(IDS)
    [cache] = one.model.start([Prompt(token_ids=IDS, positions=PLACES, embeddings=rows)])
    twin = Twin.start(one, IDS, PLACES)
    found = next_logits(one.model, cache).double()
    assert float((found - twin.expected()).abs().max()) <= one.tolerance


def test_borrowed_caches_follow(one: Opened) -> None:
    twin = Twin.start(one, IDS, PLACES)
    borrowed = one.model.borrow(twin.cache)
    twin.cache.commit([3])
    assert borrowed.remaining == twin.cache.remaining
    part = one.model.subset(LayerSet.everything(2))
    found = next_logits(part, borrowed).double()
    assert float((found - twin.expected()).abs().max()) <= one.tolerance


WRONG: dict[str, tuple[tuple[int, ...], str]] = {
    "too few": ((0, 1), "3 tokens, but 2 positions"),
    "equal": ((0, 1, 1), "must ascend from 0 on, got 1, 1"),
    "back": ((5, 1, 6), "must ascend from 0 on, got 5, 1"),
    "negative": ((-1, 0, 1), "must ascend from 0 on, got -1"),
    "no room": ((0, 1, 255), "last token is at position 255"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_positions_are_refused(one: Opened, name: str) -> None:
    positions, message = WRONG[name]
    with pytest.raises(ContextError, match=message):
        one.model.start([Prompt(token_ids=(1, 2, 3), positions=positions)])


def test_tables_read_gaps() -> None:
    model = TabularModel(torch.randn(5, 5), context_length=64)
    [cache] = model.start([Prompt(token_ids=(1, 2, 3), positions=(0, 30, 40))])
    assert model.reads_gaps and cache.remaining == 64 - 41
    [rows] = model.forward([Segment(cache, as_ids([4]))], [as_ids([0])])
    assert torch.equal(rows.logits[0], model.logits_after([1, 2, 3, 4]))


def test_a_model_that_skips_layers_reads_gaps(tmp_path: Path) -> None:
    one = opened("llama", "decoder", tmp_path)
    whole: Any = SkippingModel(one.model, speedup=1)
    [cache] = whole.start([Prompt(token_ids=IDS, positions=PLACES)])
    twin = Twin.start(one, IDS, PLACES)
    assert float((next_logits(whole, cache) - twin.expected()).abs().max()) <= one.tolerance
