"""I3: after any rounds a cache equals a fresh prefill of its text, minus what is pending."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider import kernels
from outrider.core.tree import path_to
from outrider.core.types import NO_IDS, Draft, IntArray, Prompt, as_ids
from outrider.models.caches.bookkeeping import attach
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.protocols import Segment
from tests.models.invariants import assert_equals_fresh_prefill
from tests.models.llama.test_rounds import KINDS
from tests.models.make_checkpoints import make_checkpoint
from tests.models.reference import begin, next_logits, random_ids, tree_logits

ROUNDS = 10


DTYPES = {"float64": torch.float64}
if kernels.available():
    DTYPES |= {"native float32": torch.float32, "native int8": torch.int8}


@pytest.fixture(scope="module", params=[(kind, dtype) for kind in KINDS for dtype in DTYPES])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The compiled runner meets a tolerance made for float64: its rows are equal to the bit."""
    kind, name = request.param
    path = make_checkpoint(tmp_path_factory.mktemp(kind), kind, **KINDS[kind])
    runner = NativeDecoder if "native" in name else Decoder
    return runner.load(path, dtype=DTYPES[name])


def random_draft(rng: np.random.Generator, vocab_size: int) -> Draft:
    """A tree of up to 8 nodes whose siblings may repeat a token."""
    count = int(rng.integers(0, 9))
    parents = as_ids([int(rng.integers(-1, node)) if node else -1 for node in range(count)])
    tokens = rng.integers(0, min(vocab_size, 6), count)
    return Draft(tokens=tokens, parents=parents, sources=("draft",) * count)


def random_emission(rng: np.random.Generator, draft: Draft) -> IntArray:
    """Part of a path of the draft, and then, mostly, tokens from elsewhere."""
    node = int(rng.integers(-1, len(draft)))
    accepted = draft.tokens[path_to(draft.parents, node)]
    return np.concatenate((accepted, rng.integers(0, 9, int(rng.integers(0, 3)))))


@pytest.mark.parametrize("seed", range(4))
def test_random_rounds(model: Any, seed: int) -> None:
    """Several texts at once; drafts verified whole or in two pieces; forks and truncations."""
    rng = np.random.default_rng(seed)
    prompts = [Prompt(token_ids=random_ids(n, seed=n)) for n in (1, 5, 20)]
    caches = model.start(prompts)
    for _ in range(ROUNDS):
        drafts = [random_draft(rng, model.vocab_size) for _ in caches]
        segments, wants = zip(
            *(attach(c, NO_IDS, d) for c, d in zip(caches, drafts, strict=True)), strict=True
        )
        model.forward(segments, wants)
        for cache, draft in zip(caches, drafts, strict=True):
            if rng.random() < 0.3:
                model.forward([Segment(cache, as_ids([3, 4]))], [NO_IDS])
            cache.commit(random_emission(rng, draft))
            if rng.random() < 0.2:
                cache.truncate(max(1, len(cache.text) - int(rng.integers(0, 4))))
        caches[int(rng.integers(3))] = caches[int(rng.integers(3))].fork()
        for cache in caches:
            assert_equals_fresh_prefill(model, cache)


def test_within_a_round(model: Any) -> None:
    cache = begin(model, random_ids(10))
    tree_logits(model, cache, as_ids([1, 2, 3]), as_ids([-1, -1, 0]))
    assert_equals_fresh_prefill(model, cache)
    assert cache.num_speculative == 3 and cache.fed


def test_growth_and_the_end_of_the_context(model: Any) -> None:
    cache = begin(model, random_ids(120))
    for token in random_ids(136, seed=3):
        next_logits(model, cache)
        cache.commit([token])
        if len(cache.text) in (127, 128, 129, 130, 254, 255, 256):
            assert_equals_fresh_prefill(model, cache)
    assert cache.room == 0


def test_embedded_prompt(model: Any) -> None:
    text = random_ids(8)
    rows = 0.1 * torch.randn(8, 32, generator=torch.Generator().manual_seed(1)).double()
    rows[-1] = model.embed(text[-1:])[0]
    [cache] = model.start([Prompt(token_ids=text, embeddings=rows)])
    tree_logits(model, cache, as_ids([1, 2, 3]), as_ids([-1, -1, 1]))
    cache.commit([2, 3, 7])
    assert_equals_fresh_prefill(model, cache, embeddings=rows)
    with pytest.raises(AssertionError):
        assert_equals_fresh_prefill(model, cache)


@pytest.mark.parametrize("what", ["keys", "values"])
def test_a_damaged_cache_is_seen(model: Any, what: str) -> None:
    cache = begin(model, random_ids(10))
    with torch.inference_mode():
        stored = getattr(cache.storage, what)
        place = (1, 0, 4, 0) if stored.dim() == 4 else (1, 0, 0, 0, 4)  # blocks of 16 keys
        stored[place] += 1e-6
    with pytest.raises(AssertionError, match=what):
        assert_equals_fresh_prefill(model, cache)


def test_rows_moved_to_the_wrong_place_are_seen(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DecoderCache, "_move", lambda *_: None)
    cache = begin(model, random_ids(10))
    tree_logits(model, cache, as_ids([1, 2, 3]), as_ids([-1, -1, 1]))
    cache.commit([2, 3, 7])
    with pytest.raises(AssertionError, match="keys"):
        assert_equals_fresh_prefill(model, cache)


def test_storage_is_copied_on_write_only(tmp_path: Path) -> None:
    model = Decoder.load(make_checkpoint(tmp_path / "model"))
    cache = begin(model, random_ids(10))
    twin = cache.fork()
    assert twin.storage is cache.storage
    before = cache.keys.clone()
    twin.commit([5])
    assert twin.storage is cache.storage
    next_logits(model, twin)
    assert twin.storage is not cache.storage
    assert torch.equal(cache.keys, before)
    own = cache.storage
    next_logits(model, cache)
    assert cache.storage is own, "the last reader writes in place"


def test_a_dead_fork_costs_no_copy(tmp_path: Path) -> None:
    model = Decoder.load(make_checkpoint(tmp_path / "model"))
    cache = begin(model, random_ids(10))
    own = cache.storage
    twin = cache.fork()
    del twin
    next_logits(model, cache)
    assert cache.storage is own


def test_moving_rows_of_a_shared_storage(tmp_path: Path) -> None:
    model = Decoder.load(make_checkpoint(tmp_path / "model"), dtype=torch.float64)
    cache = begin(model, random_ids(10))
    tree_logits(model, cache, as_ids([1, 2, 3]), as_ids([-1, -1, 1]))
    twin = cache.fork()
    cache.commit([2, 3, 7])
    twin.commit([1, 9])
    for one in (cache, twin):
        assert_equals_fresh_prefill(model, one)
