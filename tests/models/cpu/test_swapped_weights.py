"""New weights in a runner that is in use: rows of old weights are computed again."""

from pathlib import Path

import pytest
import torch

from outrider import kernels
from outrider.core.types import NO_IDS, IntArray, Prompt, as_ids
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.packing import NativeParts, pack_checkpoint
from outrider.models.llama.config import read_config
from outrider.protocols import Cache, Segment
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

TEXT = tuple(range(40, 70))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("swapped")
    return make_checkpoint(root / "old", seed=1), make_checkpoint(root / "new", seed=2)


def load(folder: Path) -> NativeDecoder:
    return NativeDecoder.load(folder, dtype=torch.float32, threads=1)


def parts_of(folder: Path) -> NativeParts:
    checkpoint = open_checkpoint(folder)
    return pack_checkpoint(checkpoint, read_config(checkpoint.config), torch.float32)


def row(model: NativeDecoder, cache: Cache, tokens: IntArray = NO_IDS) -> torch.Tensor:
    last = cache.num_speculative + len(tokens) - 1
    return model.forward([Segment(cache, tokens)], [as_ids([last])])[0].logits[0]


def fresh(folder: Path, text: tuple[int, ...]) -> torch.Tensor:
    model = load(folder)
    return row(model, model.start([Prompt(token_ids=text)])[0])


def test_the_next_round_reads_the_text_with_the_new_weights(folders: tuple[Path, Path]) -> None:
    model = load(folders[0])
    [cache] = model.start([Prompt(token_ids=TEXT)])
    row(model, cache, as_ids([5, 6]))
    cache.commit([5, 7])
    twin = cache.fork()
    model.use_weights(parts_of(folders[1]))
    expected = fresh(folders[1], (*TEXT, 5, 7))
    assert not torch.equal(fresh(folders[0], (*TEXT, 5, 7)), expected)
    assert torch.equal(row(model, cache), expected)
    assert torch.equal(row(model, twin), expected)
    [again] = model.start([Prompt(token_ids=(*TEXT, 5, 7, 8))], [cache])
    assert torch.equal(row(model, again), fresh(folders[1], (*TEXT, 5, 7, 8)))


def test_a_prefix_of_old_weights_is_not_reused(folders: tuple[Path, Path]) -> None:
    model = load(folders[0])
    [cache] = model.start([Prompt(token_ids=TEXT)])
    model.use_weights(parts_of(folders[1]))
    longer = (*TEXT, *range(80, 90))
    [again] = model.start([Prompt(token_ids=longer)], [cache])
    assert torch.equal(row(model, again), fresh(folders[1], longer))


def test_within_a_round_the_rows_stay_until_its_tokens_are_committed(
    folders: tuple[Path, Path],
) -> None:
    model = load(folders[0])
    [cache] = model.start([Prompt(token_ids=TEXT)])
    row(model, cache, as_ids([5]))
    model.use_weights(parts_of(folders[1]))
    row(model, cache, as_ids([6]))
    assert cache.length == len(TEXT) - 1
    cache.commit([5, 6, 7])
    assert torch.equal(row(model, cache), fresh(folders[1], (*TEXT, 5, 6, 7)))
