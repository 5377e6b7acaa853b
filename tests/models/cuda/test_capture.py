"""Programs do the same on every run, whatever the text: what capturing them needs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.core.types import EMPTY_DRAFT, NO_IDS, Prompt, as_ids
from outrider.models.caches.attaching import attach
from outrider.models.cuda import StaticDecoder
from outrider.models.cuda.inputs import WIDTHS, width_for
from outrider.models.cuda.storage import StoragePool, capacity_for
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.cuda.models import static
from tests.models.cuda.tape import TapeRunner
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import Reference, begin, close, random_ids, tree_logits

SAMPLED = SamplingParams(temperature=0.8, top_k=20, top_p=0.9, min_p=0.01, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("windows")
    return make_checkpoint(path, "mistral", sliding_window=7, max_position_embeddings=1200)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder, torch.float64)


@pytest.fixture
def runner() -> TapeRunner:
    return TapeRunner()


@pytest.fixture
def model(folder: Path, runner: TapeRunner) -> StaticDecoder:
    return static(folder, runner)


def test_a_width_is_captured_once_and_serves_chains_and_trees(
    model: StaticDecoder, runner: TapeRunner, reference: Reference
) -> None:
    text = random_ids(40)
    cache = begin(model, text)
    assert not runner.tapes  # a prefill returns nothing
    for tokens, parents in ((TREE_TOKENS, TREE_PARENTS), (TREE_TOKENS[:9], np.arange(-1, 8))):
        logits = tree_logits(model, cache, tokens, parents)
        close(logits, reference.node_logits(text, tokens, parents), 1e-5)
        cache.commit(())
    assert runner.replays == [0, 0]
    tree_logits(model, cache, TREE_TOKENS[:2], TREE_PARENTS[:2])
    assert runner.replays == [0, 0, 1]
    assert len(runner.tapes) == 2


def test_growth_binds_to_another_storage(
    model: StaticDecoder, runner: TapeRunner, reference: Reference
) -> None:
    text = random_ids(520)
    whole = reference.logits(text)
    cache = begin(model, text[:250])
    seen = []
    for start in range(250, 515, 5):
        chain = as_ids(text[start : start + 5])
        [rows] = model.forward([Segment(cache, chain)], [np.arange(-1, 5)])
        close(rows.logits, whole[start - 1 : start + 5], 1e-5)
        cache.commit(chain)
        seen.append(cache.capacity)
    assert sorted(set(seen)) == [256, 512, 1024] == list(dict.fromkeys(seen))
    assert len(runner.tapes) == 3


def test_a_later_text_finds_the_programs_of_an_earlier_one(
    model: StaticDecoder, runner: TapeRunner, reference: Reference
) -> None:
    first = begin(model, random_ids(30))
    tree_logits(model, first, TREE_TOKENS, TREE_PARENTS)
    storage = first.storage
    del first
    text = random_ids(12, seed=9)
    second = begin(model, text)
    logits = tree_logits(model, second, TREE_TOKENS, TREE_PARENTS)
    assert second.storage is storage
    assert len(runner.tapes) == 1
    close(logits, reference.node_logits(text, TREE_TOKENS, TREE_PARENTS), 1e-5)


def test_two_texts_have_programs_of_their_own(model: StaticDecoder, runner: TapeRunner) -> None:
    caches = model.start([Prompt(token_ids=random_ids(9, seed=s)) for s in (1, 2)])
    model.forward([Segment(cache, NO_IDS) for cache in caches], [as_ids([-1])] * 2)
    assert runner.replays == [0, 1]


def test_a_draft_is_replays_of_one_step(model: StaticDecoder, runner: TapeRunner) -> None:
    """One program for the first row, one that chooses, and one step, run once for each token."""
    for params in (SamplingParams(), SAMPLED):
        before = len(runner.tapes)
        for prompt in (random_ids(30), random_ids(7, seed=4)):
            cache = begin(model, prompt)
            runner.replays.clear()
            segment, _ = attach(cache, NO_IDS, EMPTY_DRAFT)
            written = model.write_chains([ChainRequest(segment, Sampler(params), (), 6)])
            assert written is not None and len(written[0]) == 6
            assert len(runner.replays) == 1 + 5 + 1
            assert len(set(runner.replays)) == 3
            del cache, segment
        assert len(runner.tapes) - before == (3 if params.temperature == 0 else 2)


def test_choices_of_rows_are_one_program(model: StaticDecoder, runner: TapeRunner) -> None:
    cache = begin(model, random_ids(30))
    [rows] = model.forward([Segment(cache, as_ids([1, 2]))], [np.arange(-1, 2)])
    before = len(runner.tapes)
    for seed in (1, 2):
        assert rows.chooser is not None
        rows.chooser(Sampler(SamplingParams(temperature=0.5 + seed, seed=seed)), np.arange(3))
    assert len(runner.tapes) == before + 1


def none(_: Tensor) -> None:
    """Work gives nothing back."""


def test_the_tape_sees_what_can_not_be_captured(runner: TapeRunner) -> None:
    buffer, fresh = torch.ones(3), [torch.ones(3)]
    with pytest.raises(AssertionError, match="waits"):
        runner.prepare(lambda: none(buffer.mul_(float(buffer.sum()))))
    with pytest.raises(AssertionError, match="waits"):
        runner.prepare(lambda: none(buffer[buffer > 0].sum()))
    replay = runner.prepare(lambda: none(buffer.add_(fresh[0])))
    replay()
    old, fresh[0] = fresh[0], torch.ones(3)
    with pytest.raises(AssertionError):
        replay()
    assert old is not fresh[0]


def test_widths() -> None:
    assert [width_for(n) for n in (1, 2, 3, 9, 33, 64, 65)] == [1, 2, 4, 16, 64, 64, None]
    assert tuple(sorted(WIDTHS)) == WIDTHS


def test_capacities() -> None:
    sizes = [capacity_for(slots, 1200) for slots in (1, 256, 257, 600, 1025, 1200, 1201)]
    assert sizes == [256, 256, 512, 1024, 1200, 1200, 1216]
    assert capacity_for(10, 100) == 100


def test_the_pool_keeps_one_unread_storage_of_each_capacity(model: StaticDecoder) -> None:
    pool = StoragePool(model.pool.layout)
    readers = [begin(model, random_ids(3)) for _ in range(4)]
    for reader in readers[:3]:
        pool.take(100).readers.add(reader)
    taken = pool.take(300)
    assert [s.capacity for s in pool.storages] == [256, 256, 256, 512]
    taken.readers.add(readers[3])
    for storage in pool.storages[:2]:
        storage.readers.clear()
    pool.take(1000)
    assert sorted(s.capacity for s in pool.storages) == [256, 256, 512, 1024]
    assert pool.take(200) is pool.take(200)
