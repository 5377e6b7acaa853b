"""Products of whole tiles (Intel AMX): the bits of vectors in products of groups, and rows that do
not depend on others in attention over bfloat16.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.kernels import library
from outrider.kernels.amx import use_tiles
from outrider.models.checkpoints import checkpoint
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.threads import Threads
from outrider.models.quantization.stored_blocks import REPACKED
from outrider.protocols import Segment
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import from_checkpoint
from tests.models.setups.reference import all_logits, begin, close, random_ids, tree_logits
from tests.models.setups.runners import KINDS


def permitted() -> bool:
    loaded = library()
    return loaded is not None and bool(loaded.outrider_amx_permitted())


pytestmark = pytest.mark.skipif(not permitted(), reason="needs AMX, and a system that permits it")

LONG: dict[str, Any] = {"max_position_embeddings": 1024}
ODD: dict[str, Any] = {"hidden_size": 200, "intermediate_size": 150, "head_dim": 10, **LONG}
"""No size is a multiple of a panel or of a group."""
BIG: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


@contextmanager
def tiles(use: bool) -> Iterator[None]:
    loaded: Any = library()
    assert loaded.outrider_amx_use(int(use)) == int(use)
    try:
        yield
    finally:
        use_tiles(loaded, Path(loaded._name))


# -- products of groups ------------------------------------------------------------------------


def with_and_without(model: NativeDecoder, text: tuple[int, ...]) -> tuple[Any, Any]:
    found: list[Any] = []
    for use in (True, False):
        with tiles(use):
            found.append(all_logits(model, text))
    return found[0], found[1]


@pytest.mark.parametrize("kind", ["llama", "granite", "qwen3_moe", "qwen2"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_they_give_the_bits_of_vectors(dtype: str, kind: str, tmp_path: Path) -> None:
    """With gates, biases, experts and results that are scaled before they are added."""
    path = make_checkpoint(tmp_path, kind, **(KINDS[kind] | ODD))
    model = NativeDecoder.load(path, dtype=FORMATS[dtype].dtype, threads=1)
    for count in (31, 32, 33, 47, 48, 70, 300):
        ours, theirs = with_and_without(model, random_ids(count))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", REPACKED)
def test_they_read_the_blocks_of_files(kind: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", "qwen3", **BIG, **LONG)
    file = from_checkpoint(source, {}, default=kind).write(tmp_path / "model.gguf")
    model = NativeDecoder.load(file, dtype=None, threads=2)
    for count in (32, 70, 280):
        ours, theirs = with_and_without(model, random_ids(count))
        assert torch.equal(ours, theirs)


def test_wide_inputs_are_unpacked_in_parts(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "llama", **{**BIG, "intermediate_size": 9000})
    model = NativeDecoder.load(path, dtype=torch.int8, threads=2)
    ours, theirs = with_and_without(model, random_ids(50))
    assert torch.equal(ours, theirs)


def spoiled(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the embedding of token 7 infinite, as if a sum had overflowed."""
    monkeypatch.setattr(checkpoint, "check_finite", lambda *_: None)
    file = path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][7, 3] = torch.inf
    save_file(tensors, file, metadata={"format": "pt"})
    return path


BEFORE, BEHIND = tuple(range(8, 48)), (7, 20, 21, *range(100, 130))
"""The token that breaks a row follows 40 others."""


def test_nan_in_a_row_stays_in_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spoiled(make_checkpoint(tmp_path, "llama", **BIG), monkeypatch)
    model = NativeDecoder.load(path, dtype=torch.int8, threads=1)
    ours, theirs = with_and_without(model, BEFORE + BEHIND)
    assert torch.equal(ours[:40], theirs[:40]) and ours[:40].isfinite().all()
    assert ours[40:].isnan().all() and theirs[40:].isnan().all()


# -- attention ---------------------------------------------------------------------------------

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "one": ("llama", {"num_key_value_heads": 1}),
    "wide": ("llama", {"head_dim": 128, "hidden_size": 128}),
    "odd": ("llama", {"head_dim": 96, "hidden_size": 96}),
    "short window": ("mistral", {"sliding_window": 3}),
    "window": ("mistral", {"sliding_window": 70}),
    "long window": ("mistral", {"sliding_window": 300}),
    "capped": ("gemma2", KINDS["gemma2"] | {"sliding_window": 40}),
    "many heads": (
        "llama",
        {"hidden_size": 48, "num_attention_heads": 24, "num_key_value_heads": 1},
    ),
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request: Any, tmp_path_factory: Any) -> Iterator[NativeDecoder]:
    kind, settings = SHAPES[request.param]
    path = make_checkpoint(
        tmp_path_factory.mktemp("model"), kind, **{"head_dim": 32, **LONG, **settings}
    )
    with tiles(True):
        yield NativeDecoder.load(path, dtype=torch.float32, cache_dtype=torch.bfloat16, threads=1)


TEXT = random_ids(600)
MORE = random_ids(70, seed=1)


def rows_after(model: NativeDecoder, text: tuple[int, ...], tokens: tuple[int, ...]) -> Any:
    segment = Segment(begin(model, text), as_ids(tokens))
    [rows] = model.forward([segment], [np.arange(-1, len(tokens))])
    return rows.logits


@pytest.mark.parametrize("length", [1, 31, 32, 70, 250, 256, 511, 530])
def test_rows_do_not_depend_on_the_width(length: int, model: NativeDecoder) -> None:
    """Drafted rows alone, in blocks, and as a text that is read at once or row by row."""
    count = 70 if length in (1, 250) else 24
    text, more = TEXT[:length], MORE[:count]
    whole = rows_after(model, text, more)
    for width in (1, 2, 3, 7, 17, 33):
        part = rows_after(model, text, more[:width])
        assert torch.equal(part, whole[: len(part)])
    cache = begin(model, text)
    for i, token in enumerate(more):
        [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        assert torch.equal(rows.logits[0], whole[i])
        cache.commit([token])
    assert torch.equal(rows_after(model, (*text, *more), ())[0], whole[-1])


@pytest.mark.parametrize("depth", [3, 40])
def test_rows_do_not_depend_on_siblings(depth: int, model: NativeDecoder) -> None:
    """Two branches lie between each other in memory; a tail begins at any place of a span."""
    tokens, parents = as_ids(random_ids(2 * depth, seed=3)), np.arange(2 * depth) - 2
    parents[:2] = -1
    for length in (1, 29, 224, 253, 255, 256, 257, 289, 510, 512):
        text = TEXT[:length]
        tree = tree_logits(model, begin(model, text), tokens, parents)
        for branch in (0, 1):
            chain = rows_after(model, text, tuple(tokens[branch::2].tolist()))
            assert torch.equal(tree[1 + branch :: 2], chain[1:])


def test_rows_do_not_depend_on_the_batch(model: NativeDecoder) -> None:
    texts = [TEXT[:3], TEXT[:300], MORE, TEXT[100:400]]
    alone = [rows_after(model, text, ())[0] for text in texts]
    for threads in (1, 2):
        model.threads = Threads.fixed(threads)
        caches = model.start([Prompt(token_ids=text) for text in texts])
        rows = model.forward([Segment(c, NO_IDS) for c in caches], [as_ids([-1])] * 4)
        for own, row in zip(alone, rows, strict=True):
            assert torch.equal(row.logits[0], own)
    model.threads = Threads.fixed(1)


def test_it_is_the_attention_of_vectors(model: NativeDecoder) -> None:
    """The numbers of the cache are equal in the first layer; later ones are rounded differently."""
    ours = rows_after(model, TEXT, MORE[:8])
    with tiles(False):
        theirs = rows_after(model, TEXT, MORE[:8])
    assert not torch.equal(ours, theirs)
    close(ours, theirs, 2e-3)


def test_a_row_is_not_changed_by_infinite_rows_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden values have the weight 0, and 0 times infinity is NaN: in drafts and in texts."""
    path = spoiled(make_checkpoint(tmp_path, "llama", head_dim=32), monkeypatch)
    model = NativeDecoder.load(path, cache_dtype=torch.bfloat16, threads=1)
    with tiles(True):
        logits, alone = all_logits(model, BEFORE + BEHIND), all_logits(model, BEFORE)
        texts = [begin(model, text).storage.first(40) for text in (BEFORE + BEHIND, (*BEFORE, 9))]
        [drafted] = model.forward(
            [Segment(begin(model, BEFORE), as_ids([5, 7, 6]), as_ids([-1, -1, 0]))],
            [as_ids([-1, 0, 1, 2])],
        )
    assert torch.equal(logits[:40], alone) and logits[40:].isnan().all()
    for own, other in zip(*texts, strict=True):
        assert torch.equal(own, other)
    assert drafted.logits[[0, 1, 3]].isfinite().all() and drafted.logits[2].isnan().all()
