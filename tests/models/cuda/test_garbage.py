"""Nothing that a row may not see can reach it: stale slots, scratch, padding, other branches."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from outrider.core.types import EMPTY_DRAFT, NO_IDS, as_ids
from outrider.models.caches.attaching import attach
from outrider.models.cuda import StaticDecoder
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.cuda.models import static
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import begin, random_ids, tree_logits
from tests.models.setups.runners import KINDS


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    path: Path = tmp_path_factory.mktemp(request.param)
    return static(make_checkpoint(path, request.param, dtype=torch.float64, **KINDS[request.param]))


def spoil(model: StaticDecoder, cache: object, value: float) -> None:
    """Fill every slot that holds no committed row, and make padding rows read `value`."""
    with torch.inference_mode():
        for storage in model.pool.storages:
            kept = cache.length if storage is cache.storage else 0  # pyright: ignore
            storage.keys[:, :, kept:] = value
            storage.values[:, :, kept:] = value
        model.weights.embed[0] = value


def drafts(model: StaticDecoder, cache: object) -> tuple[torch.Tensor, list[int]]:
    """Logits of a tree and of a chain behind it, and a draft."""
    tree = tree_logits(model, cache, TREE_TOKENS, TREE_PARENTS)  # pyright: ignore
    [chain] = model.forward([Segment(cache, as_ids([5, 6, 7]))], [as_ids([13, 15])])
    sampler = Sampler(SamplingParams(temperature=1.0, top_p=0.95, seed=1))
    segment, _ = attach(cache, NO_IDS, EMPTY_DRAFT)  # pyright: ignore
    written = model.write_chains([ChainRequest(segment, sampler, (), 7)])
    assert written is not None
    return torch.cat((tree, chain.logits)), written[0].tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_unused_slots_and_padding(model: StaticDecoder, value: float) -> None:
    text = [token or 1 for token in random_ids(20)]
    expected = drafts(model, begin(model, text))
    cache = begin(model, text)
    spoil(model, cache, value)
    found = drafts(model, cache)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_a_poisoned_branch_stays_on_its_branch(model: StaticDecoder) -> None:
    """Node 2 cannot be read; only nodes 2, 5, 6, 8 and those behind 8 stand on it.

    Windows of three rows in both layers reach four rows back, and node 12 is five behind.
    """
    text = random_ids(12)
    expected = tree_logits(model, begin(model, text), TREE_TOKENS, TREE_PARENTS)
    assert TREE_TOKENS[2] not in text
    model.weights.embed[int(TREE_TOKENS[2])] = math.nan
    found = tree_logits(model, begin(model, text), TREE_TOKENS, TREE_PARENTS)
    windowed = model.info.name.startswith(("mistral", "phi3"))
    behind = [10, 11] if windowed else [10, 11, 12]
    poisoned = np.array([2, 5, 6, 8, *behind]) + 1
    assert found[poisoned].isnan().all()
    clean = np.setdiff1d(np.arange(14), poisoned)
    assert torch.equal(found[clean], expected[clean])


def test_a_storage_of_a_poisoned_text_serves_the_next(model: StaticDecoder) -> None:
    text = random_ids(12)
    poison = next(t for t in range(280) if t not in text)
    expected = tree_logits(model, begin(model, text), TREE_TOKENS, TREE_PARENTS)
    row = model.weights.embed[poison].clone()
    model.weights.embed[poison] = math.nan
    bad = begin(model, [poison] * 90)
    storage = bad.storage
    model.forward([Segment(bad, NO_IDS)], [as_ids([-1])])
    model.weights.embed[poison] = row
    del bad
    cache = begin(model, text)
    assert cache.storage is storage and cache.storage.values.isnan().any()
    assert torch.equal(tree_logits(model, cache, TREE_TOKENS, TREE_PARENTS), expected)
