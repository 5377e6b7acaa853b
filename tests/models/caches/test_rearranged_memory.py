"""Where rows lie after a cache was taken apart, and how many there are at most."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider import kernels
from outrider.core.types import NO_IDS, Fresh, Kept, Prompt, as_ids
from outrider.models.caches.bookkeeping import Run
from outrider.models.caches.kv_cache import CacheLayout, DecoderCache, Storage
from outrider.models.caches.rearranging import plan
from outrider.models.cpu.cache import NativeStorage
from outrider.models.tabular import TabularModel
from outrider.protocols import Segment
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.rearranging import IDS, PLACES, rearrange, start, stored
from tests.models.setups.reference import next_logits, random_ids
from tests.models.setups.runners import load
from tests.models.setups.seen import WINDOWS, Twin, opened

SMALL = CacheLayout(
    num_layers=1,
    num_kv_heads=1,
    head_dim=2,
    context_length=5000,
    dtype=torch.float32,
    device=torch.device("cpu"),
)

Lengths = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=5)


@pytest.mark.parametrize("kind", [Storage, NativeStorage] if kernels.available() else [Storage])
@given(lengths=Lengths)
@settings(max_examples=40, deadline=None)
def test_rows_move_within_one_storage(kind: Any, lengths: list[tuple[int, int]]) -> None:
    """Pairs of what is dropped or added before a run, and the run's length."""
    rng = np.random.default_rng(len(lengths))
    runs: list[Run] = []
    start = source = 0
    for gap, count in lengths:
        if rng.random() < 0.5:
            start += gap
        else:
            source += gap
        if count:
            runs.append(Run(start, start + count, source))
        start, source = start + count, source + count
    cache = DecoderCache(SMALL, kind(SMALL, max(start, source, 1)))
    with torch.inference_mode():
        values = torch.arange(cache.capacity, dtype=torch.float32)
        cache.storage.values.copy_(values[:, None].expand(-1, 2))
        keys = cache.storage.keys
        keys.copy_(values.view(-1, 16)[:, None] if keys.dim() == 5 else values[:, None])
    storage = cache.storage
    cache._lay_out(runs, start)
    assert cache.storage is storage, "no copy where there is room"
    for found in storage.first(start):
        for run in runs:
            expected = torch.arange(run.source, run.source + len(run), dtype=torch.float32)
            assert torch.equal(found[0, 0, run.start : run.stop], expected[:, None].expand(-1, 2))


def test_capacity_is_what_the_text_needs(tmp_path: Path) -> None:
    one = opened("llama", "decoder", tmp_path)
    twin = Twin.start(one, random_ids(150), None)
    assert 150 < twin.cache.capacity <= 150 + 150 // 16 + 16
    storage = twin.cache.storage
    rearrange(twin, [Kept(0, 20), Kept(100, 150)])
    rearrange(twin, [Kept(0, 20), Fresh(tuple(range(80)), tuple(range(20, 100))), Kept(20, 70)])
    assert twin.cache.storage is storage, "what was dropped makes room for what is read"
    other = twin.fork()
    rearrange(other, [Kept(0, 20)])
    assert other.cache.capacity == 128 and twin.cache.storage is storage


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_cache_of_transformers_holds_no_more_than_before_or_after(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = opened(kind, "transformers", tmp_path)
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", 3)
    twin, held = start(one), []
    read = one.model.forward

    def watched(segments: Sequence[Segment], want: Sequence[Any]) -> Any:
        rows = read(segments, want)
        cache = segments[0].cache
        aside = sum(len(run) for run in cache._aside)
        held.append(aside + cache.storage.layers[0].keys.shape[-2])
        return rows

    monkeypatch.setattr(one.model, "forward", watched)
    fresh = Fresh(tuple(range(9)), tuple(range(10, 19)))
    one.model.rearrange([twin.cache], [[Kept(0, 8), fresh, Kept(20, 30)]])
    assert len(held) == 3 and max(held) <= 29
    assert not twin.cache._aside


# -- tables ---------------------------------------------------------------------------------------


def test_tables_are_rearranged() -> None:
    model = TabularModel.random(order=2)
    [cache] = model.start([Prompt(token_ids=(1, 2, 3, 4, 0))])
    cache.commit([2, 2])
    model.rearrange([cache], [[Kept(0, 2), Kept(3, 6), Fresh((1,), (30,))]])
    assert cache.text == [1, 2, 4, 0, 2, 1] and list(cache.pending) == [1]
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    assert torch.equal(rows.logits[0], model.logits_after([2, 1]))
    borrowed = model.borrow(cache)
    model.rearrange([cache], [[Fresh((4, 4))]])
    assert list(borrowed.text) == [4, 4]


def test_runs_that_go_on_are_one() -> None:
    model = TabularModel.random()
    [cache] = model.start([Prompt(token_ids=(1, 2, 3, 4, 0))])
    found = plan(model, cache, [Kept(0, 2), Kept(2, 3), Fresh(()), Kept(3, 3), Kept(4, 5)])
    assert found.kept == [Run(0, 3, 0)] and found.sound is None
    assert plan(model, cache, [Kept(1, 3), Kept(3, 5)]).kept == [Run(0, 3, 1)]


# -- int8 -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not kernels.available(), reason="no compiled kernels")
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_in_int8_too_rows_are_equal_to_the_bit(kind: str, tmp_path: Path) -> None:
    model = load("int8", make_checkpoint(tmp_path / "model", kind, std=0.2, **WINDOWS[kind]))
    [cache] = model.start([Prompt(token_ids=IDS, positions=PLACES)])
    before = stored(cache)
    model.rearrange([cache], [[Kept(0, 10), Fresh((1, 2, 3), (12, 13, 14)), Kept(20, 30)]])
    after = stored(cache)
    assert torch.equal(after[..., 13:, :], before[..., 20:, :])
    ids, places = (7, 8, 9, 10, 4), (15, 16, 40, 41, 90)
    model.rearrange([cache], [[Kept(0, 13), Fresh(ids, places)]])
    whole = Prompt(token_ids=tuple(cache.text), positions=(*PLACES[:10], 12, 13, 14, *places))
    [fresh] = model.start([whole])
    assert torch.equal(stored(cache), stored(fresh))
    assert torch.equal(next_logits(model, cache), next_logits(model, fresh))
