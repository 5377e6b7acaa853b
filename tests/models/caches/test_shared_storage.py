"""Storages that forks share are copied when one of two readers writes, and not before."""

from pathlib import Path

import pytest
import torch

from outrider.models.llama.decoder import Decoder
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import begin, next_logits, random_ids


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    path: Path = tmp_path_factory.mktemp("model")
    return Decoder.load(make_checkpoint(path))


def test_storage_is_copied_on_write_only(model: Decoder) -> None:
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


def test_a_dead_fork_costs_no_copy(model: Decoder) -> None:
    cache = begin(model, random_ids(10))
    own = cache.storage
    twin = cache.fork()
    del twin
    next_logits(model, cache)
    assert cache.storage is own
