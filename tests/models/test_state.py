"""I3: after any rounds a cache equals a fresh prefill of its text, minus what is pending."""

from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.caches.attaching import attach
from outrider.protocols import Segment
from tests.models.setups.drafts import random_draft, random_emission
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.pairs import Pairs
from tests.models.setups.reference import begin, random_ids, tree_logits
from tests.models.setups.runners import KINDS, pair_cases

ROUNDS = 10
TOLERANCE = 1e-10
"""Made for float64. Rows of the compiled runners are equal to the bit, and so meet it too."""

CASES = (
    pair_cases(KINDS, ("decoder", "native"))
    + pair_cases(("llama", "mistral", "qwen2"), ("int8",))
    + pair_cases(("qwen3", "smollm3"), ("int8",), slow=True)
    + pair_cases(("mistral", "qwen2"), ("static",))
    + pair_cases(("gpt2", "qwen2 window", "neox"), ("transformers",))
)
"""In int8 the caches are those of `native`, so the kinds without windows are left to `llama`.
Static programs differ from `Decoder` in how they mask, so theirs are the kinds with windows."""


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest, pairs: Pairs) -> Any:
    return pairs.exact(*request.param)


def check(model: Any, cache: Any, embeddings: torch.Tensor | None = None) -> None:
    assert_equals_fresh_prefill(model, cache, tolerance=TOLERANCE, embeddings=embeddings)


def play_rounds(model: Any, seed: int) -> None:
    """Several texts at once; drafts verified whole or in two pieces; forks and truncations."""
    rng = np.random.default_rng(seed)
    prompts = [Prompt(token_ids=random_ids(n, seed=n)) for n in (1, 5, 20)]
    caches = model.start(prompts)
    for _ in range(ROUNDS):
        drafts = [random_draft(rng, model.info.vocab_size) for _ in caches]
        pairs = [attach(c, NO_IDS, d) for c, d in zip(caches, drafts, strict=True)]
        model.forward([segment for segment, _ in pairs], [want for _, want in pairs])
        for cache, draft in zip(caches, drafts, strict=True):
            if rng.random() < 0.3:
                model.forward([Segment(cache, as_ids([3, 4]))], [NO_IDS])
            cache.commit(random_emission(rng, draft))
            if rng.random() < 0.2:
                cache.truncate(max(1, len(cache.text) - int(rng.integers(0, 4))))
        caches[int(rng.integers(3))] = caches[int(rng.integers(3))].fork()
        for cache in caches:
            check(model, cache)


def test_random_rounds(model: Any) -> None:
    play_rounds(model, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_more_random_rounds(model: Any, seed: int) -> None:
    """Other walks of the same kind as `test_random_rounds`."""
    play_rounds(model, seed)


def test_within_a_round(model: Any) -> None:
    cache = begin(model, random_ids(10))
    tree_logits(model, cache, as_ids([1, 2, 3]), as_ids([-1, -1, 0]))
    check(model, cache)
    assert cache.num_speculative == 3 and cache.fed


def test_growth_and_the_end_of_the_context(model: Any) -> None:
    """Token by token where storages of 128 and 256 rows are filled; between them in one piece."""
    cache = begin(model, random_ids(124))
    tokens = random_ids(132, seed=3)
    while cache.remaining:
        count = 120 if len(cache.text) == 130 else 1
        next_tokens = tokens[len(cache.text) - 124 :][:count]
        model.forward([Segment(cache, as_ids(next_tokens))], [NO_IDS])
        cache.commit(next_tokens)
        if len(cache.text) in (127, 128, 129, 130, 254, 255, 256):
            check(model, cache)
    assert len(cache.text) == 256


def test_embedded_prompt(model: Any) -> None:
    text = random_ids(8)
    rows = 0.1 * torch.randn(8, 32, generator=torch.Generator().manual_seed(1)).double()
    rows[-1] = model.embed(text[-1:])[0]
    [cache] = model.start([Prompt(token_ids=text, embeddings=rows)])
    tree_logits(model, cache, as_ids([1, 2, 3]), as_ids([-1, -1, 1]))
    cache.commit([2, 3, 7])
    check(model, cache, embeddings=rows)
    with pytest.raises(AssertionError):
        check(model, cache)


def test_moving_rows_of_a_shared_storage(model: Any) -> None:
    cache = begin(model, random_ids(10))
    tree_logits(model, cache, as_ids([1, 2, 3]), as_ids([-1, -1, 1]))
    twin = cache.fork()
    cache.commit([2, 3, 7])
    twin.commit([1, 9])
    for one in (cache, twin):
        check(model, one)


# -- the comparison can fail -------------------------------------------------------------------


def damage(cache: Any, what: str) -> str:
    """Change one number of a committed row in the second layer; what the comparison says then."""
    layers = getattr(cache.storage, "layers", None)
    stored = getattr(layers[1] if layers else cache.storage, what)
    with torch.inference_mode():
        if layers:  # of a cache of `transformers`, whose rows are seen by the logits they give
            stored[0, 0, 4, 0] += 1e-6
            return "next logits"
        place = (1, 0, 4, 0) if stored.dim() == 4 else (1, 0, 0, 0, 4)  # blocks of 16 keys
        stored[place] += 1e-6 if stored.is_floating_point() else 1
    return what


@pytest.mark.parametrize("what", ["keys", "values"])
def test_a_damaged_cache_is_seen(model: Any, what: str) -> None:
    cache = begin(model, random_ids(10))
    with pytest.raises(AssertionError, match=damage(cache, what)):
        check(model, cache)


def test_rows_moved_to_the_wrong_place_are_seen(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = begin(model, random_ids(10))
    monkeypatch.setattr(type(cache), "_move", lambda *_: None)
    tree_logits(model, cache, as_ids([1, 2, 3]), as_ids([-1, -1, 1]))
    cache.commit([2, 3, 7])
    with pytest.raises(AssertionError, match="keys" if hasattr(cache, "keys") else "next logits"):
        check(model, cache)
