"""Caches taken apart: what stays is left alone, what is read sees what stands before it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import ContextError
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, Fresh, Kept, Piece, Prompt, as_ids
from outrider.protocols import Segment, Segmented
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.rearranging import IDS, PLACES, rearrange, start, stored
from tests.models.setups.reference import next_logits, tree_logits
from tests.models.setups.seen import PAIRS, Opened, Twin, opened


@pytest.fixture(scope="module", params=PAIRS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    kind, runner = request.param
    return opened(kind, runner, tmp_path_factory.mktemp(kind))


def test_it_is_segmented(one: Opened) -> None:
    assert isinstance(one.model, Segmented)


def test_another_ending_equals_a_fresh_prefill(one: Opened) -> None:
    twin = start(one)
    before = stored(twin.cache)
    twin.cache.commit([4, 5])
    ids, places = (7, 8, 9, 10, 4, 5), (32, 33, 60, 61, 62, 63)
    rearrange(twin, [Kept(0, 12), Fresh(ids, places)])
    assert list(twin.cache.text) == [*IDS[:12], *ids]
    assert twin.places == [*PLACES[:12], *places]
    assert_equals_fresh_prefill(one.model, twin.cache)
    twin.check(one.tolerance)
    assert torch.equal(stored(twin.cache)[..., :12, :], before[..., :12, :])
    assert twin.cache.reusable


def test_a_suffix_plan_is_a_truncation_and_a_prefill(one: Opened) -> None:
    ids = (*IDS[:12], 7, 8, 9, 10)
    twin = Twin.start(one, IDS, None)
    rearrange(twin, [Kept(0, 12), Fresh(ids[12:])])
    other = Twin.start(one, IDS, None)
    other.cache.truncate(13)
    one.model.start([Prompt(token_ids=ids)], [other.cache])
    assert other.cache.text == twin.cache.text and twin.cache.places.shift == 0
    assert torch.allclose(stored(twin.cache), stored(other.cache), rtol=0, atol=1e-6)
    assert twin.cache.reusable


def test_a_chunk_swapped_for_another_leaves_what_follows_alone(one: Opened) -> None:
    """Chunks of other lengths: rows move down, or up, and are the same rows."""
    for chunk in ((9, 8, 7), tuple(range(9)), tuple(range(14))):
        twin = start(one)
        twin.cache.commit([4, 5])
        twin.check(one.tolerance)
        before = stored(twin.cache)
        places = tuple(range(14, 14 + len(chunk)))
        rearrange(twin, [Kept(0, 10), Fresh(chunk, places), Kept(20, 32)])
        after = stored(twin.cache)
        end = 10 + len(chunk)
        assert torch.equal(after[..., :10, :], before[..., :10, :])
        assert torch.equal(after[..., end : end + 9, :], before[..., 20:29, :])
        twin.check(one.tolerance)
        assert not twin.cache.reusable and twin.cache.sound == end
        if one.kind != "llama":  # windows hide what was swapped
            continue
        with pytest.raises(AssertionError):
            assert_equals_fresh_prefill(one.model, twin.cache, tolerance=1e-6)


def test_two_that_undo_each_other(one: Opened) -> None:
    twin = start(one)
    expected, before = twin.found(), stored(twin.cache)
    rearrange(twin, [Kept(0, 10), Kept(20, 30)])
    if one.kind == "llama":
        assert float((twin.found() - expected).abs().max()) > 1e-3
    rearrange(twin, [Kept(0, 10), Fresh(IDS[10:20], PLACES[10:20]), Kept(10, 20)])
    assert twin.places == list(PLACES)
    assert torch.allclose(stored(twin.cache), before, rtol=0, atol=1e-6)
    assert float((twin.found() - expected).abs().max()) <= one.tolerance


def test_holes_see_what_stands_before_them_and_nothing_after(one: Opened) -> None:
    fresh = Fresh((3, 4, 5, 6), (15, 16, 17, 18))
    rows = []
    for ending in (Kept(20, 30), Kept(25, 30), Fresh((1, 2), (100, 101))):
        twin = start(one)
        rearrange(twin, [Kept(0, 10), fresh, ending])
        rows.append(stored(twin.cache)[..., :14, :])
    for other in rows[1:]:
        assert torch.allclose(rows[0], other, rtol=0, atol=1e-6)


def test_the_last_token_is_pending_and_other_pending_ones_are_read(one: Opened) -> None:
    twin = start(one)
    twin.cache.commit([1, 2, 3])
    assert len(twin.cache.pending) == 4
    rearrange(twin, [Kept(0, 33), Fresh((8,), (70,))])
    assert len(twin.cache.pending) == 1 and twin.cache.length == 33
    twin.check(one.tolerance)
    assert_equals_fresh_prefill(one.model, twin.cache)
    rearrange(twin, [Kept(0, 5)])
    assert twin.cache.length == 4
    assert_equals_fresh_prefill(one.model, twin.cache)
    rearrange(twin, [Fresh((9,), (3,))])
    assert twin.cache.length == 0 and twin.places == [3]
    twin.check(one.tolerance)


def test_kept_tokens_may_all_be_pending(one: Opened) -> None:
    twin = start(one)
    twin.cache.commit([1, 2, 3])
    rearrange(twin, [Kept(0, 10), Fresh((7, 8), (12, 13)), Kept(30, 32), Kept(32, 33)])
    assert len(twin.cache.pending) == 1 and twin.cache.length == 14
    twin.check(one.tolerance)
    assert_equals_fresh_prefill(one.model, twin.cache)


def test_speculative_rows_are_forgotten_and_read_pending_ones_stay(one: Opened) -> None:
    twin = start(one)
    twin.cache.commit([1, 2, 3])
    tree_logits(one.model, twin.cache, as_ids([5, 6, 7]), as_ids([-1, -1, 0]))
    rearrange(twin, [Kept(0, 10), Kept(20, 33)])
    assert not twin.cache.fed and not twin.cache.num_speculative
    twin.check(one.tolerance)


def test_several_at_once_and_shared_rows(one: Opened) -> None:
    """Forks are copied before they are changed."""
    first = start(one)
    first.check(one.tolerance)
    second, third = first.fork(), first.fork()
    before = stored(third.cache)
    pieces: list[list[Piece]] = [
        [Kept(0, 10), Fresh((1, 2, 3), (12, 13, 14)), Kept(20, 30)],
        [Fresh((4, 5), (0, 1)), Kept(10, 30)],
    ]
    one.model.rearrange([first.cache, second.cache], pieces)
    assert torch.equal(stored(third.cache), before)
    for cache, new in zip((first.cache, second.cache), pieces, strict=True):
        alone = start(one)
        rearrange(alone, new)
        assert cache.text == alone.cache.text
        assert torch.allclose(stored(cache), stored(alone.cache), atol=1e-5)
    third.check(one.tolerance)


@pytest.mark.parametrize("chunk", [3, 8])
def test_holes_are_read_in_chunks(one: Opened, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", chunk)
    twin = start(one)
    fresh = Fresh(tuple(range(9)), tuple(range(10, 19)))
    rearrange(twin, [Kept(0, 8), fresh, Kept(22, 25), Fresh((8, 9), (46, 47)), Kept(28, 30)])
    twin.check(one.tolerance)


def test_a_borrowed_cache_sees_the_new_text(one: Opened) -> None:
    twin = start(one)
    borrowed = one.model.borrow(twin.cache)
    rearrange(twin, [Kept(0, 10), Fresh((1, 2), (10, 11)), Kept(20, 30)])
    assert borrowed.text == twin.cache.text and borrowed.remaining == twin.cache.remaining
    part = one.model.subset(LayerSet.everything(2))
    found = next_logits(part, borrowed).double()
    assert float((found - twin.expected()).abs().max()) <= one.tolerance
    with pytest.raises(RuntimeError, match="rearrange its owner"):
        one.model.rearrange([borrowed], [[Kept(0, 3)]])


WRONG: dict[str, tuple[type[Exception], str, list[Piece]]] = {
    "empty": (ContextError, "text is empty", []),
    "too long": (ContextError, "ends at position 256", [Kept(0, 3), Fresh((1, 2), (255, 256))]),
    "unknown id": (ContextError, "token 300", [Kept(0, 3), Fresh((300,))]),
    "out of order": (ValueError, "not in order", [Kept(10, 20), Kept(0, 10)]),
    "twice": (ValueError, "not in order", [Kept(0, 10), Kept(9, 12)]),
    "unknown": (ValueError, "not in order", [Kept(0, 31)]),
    "moved": (ValueError, "keep their positions", [Fresh(tuple(range(25))), Kept(10, 30)]),
    "back": (ValueError, "position 3", [Kept(0, 10), Fresh((1,), (3,))]),
    "positions": (ValueError, "2 tokens, but 1 positions", [Fresh((1, 2), (3,))]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_is_refused_before_anything_is_changed(one: Opened, name: str) -> None:
    error, message, pieces = WRONG[name]
    twin = start(one)
    other = twin.fork()
    before = stored(twin.cache)
    with pytest.raises(error, match=message):
        one.model.rearrange([other.cache, twin.cache], [[Kept(0, 5)], pieces])
    for cache in (twin.cache, other.cache):
        assert list(cache.text) == list(IDS) and torch.equal(stored(cache), before)


def test_the_next_turn_builds_on_sound_rows_alone(one: Opened) -> None:
    twin = start(one)
    rearrange(twin, [Kept(0, 10), Fresh((1, 2), (12, 13)), Kept(20, 30)])
    prompt = Prompt(token_ids=(*twin.cache.text, 5, 6), positions=(*twin.places, 60, 61))
    [cache] = one.model.start([prompt], [twin.cache])
    assert cache is twin.cache and cache.reusable
    assert_equals_fresh_prefill(one.model, cache)


def test_rewriting_what_follows_makes_a_cache_sound_again(one: Opened) -> None:
    twin = start(one)
    rearrange(twin, [Kept(0, 10), Kept(20, 30)])
    assert twin.cache.sound == 10
    twin.cache.commit([4, 5])
    assert twin.cache.fork().sound == 10
    rearrange(twin, [Kept(0, 15), Fresh((3, 4), (90, 91))])
    assert twin.cache.sound == 10, "kept rows are as stale as they were"
    rearrange(twin, [Kept(0, 10), Fresh((3, 4), (90, 91))])
    assert twin.cache.reusable
    assert_equals_fresh_prefill(one.model, twin.cache)


def pieces_of(rng: np.random.Generator, cache: Any, places: Sequence[int]) -> list[Piece]:
    """Blocks of the text, some of them gone, and new tokens wherever positions are free."""
    length = len(cache.text)
    cuts = sorted({0, length, *rng.integers(0, length + 1, 4).tolist()})
    blocks = [(a, b) for a, b in pairwise(cuts) if rng.random() < 0.7]
    pieces: list[Piece] = []
    free = 0
    for first, last in [*blocks, (length, length)]:
        until = places[first] if first < length else min(free + 6, 200)
        open_places = list(range(free, until))
        if open_places and rng.random() < 0.6:
            count = int(rng.integers(1, min(len(open_places), 8) + 1))
            chosen = sorted(rng.choice(open_places, count, replace=False).tolist())
            ids = tuple(rng.integers(0, 288, count).tolist())
            pieces.append(Fresh(ids, tuple(chosen)))
        if last > first:
            pieces.append(Kept(first, last))
            free = places[last - 1] + 1
    return pieces or [Fresh((1, 2), (0, 5))]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_walks(one: Opened, seed: int) -> None:
    """Rearrangements, drafts, commits, forks and truncations, before a judge who saw it all."""
    rng = np.random.default_rng(seed)
    twins = [start(one)]
    for _ in range(8):
        twin = twins[int(rng.integers(len(twins)))]
        twin.note()
        move = rng.random()
        if move < 0.5 or twin.cache.remaining < 8:
            rearrange(twin, pieces_of(rng, twin.cache, twin.places))
        elif move < 0.85:
            tokens, parents = as_ids([5, 6, 7]), as_ids([-1, -1, 1])
            one.model.forward([Segment(twin.cache, tokens, parents)], [NO_IDS])
            twin.cache.commit([[6, 7, 8], [5, 9], [3], [6, 7]][int(rng.integers(4))])
        elif move < 0.95 and len(twins) < 3:
            twins.append(twin.fork())
        else:
            twin.cache.truncate(int(rng.integers(1, len(twin.cache.text) + 1)))
        twin.check(one.tolerance)
    for twin in twins:
        twin.check(one.tolerance)
