"""The compiled runner: equal rows at any width, on any number of threads, in both precisions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from outrider import kernels
from outrider.core.errors import CheckpointError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.checkpoints import checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.cache import CACHE_DTYPES
from outrider.models.cpu.encoding import CHANNELS
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.threads import Threads
from outrider.models.quality import compare, quality_of, read
from outrider.models.quantization.int8 import quantize_channels
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import (
    all_logits,
    begin,
    close,
    next_logits,
    random_ids,
    tree_logits,
)
from tests.models.setups.runners import KINDS

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

DTYPES = {
    "int8": torch.int8,
    "int8-channels": CHANNELS,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
PLAIN = ("mistral", "qwen2", "qwen3", "smollm3")
"""Architectures that add nothing to what the kernels compute for the others."""

ODD: dict[str, Any] = {"hidden_size": 36, "intermediate_size": 50, "head_dim": 10}
"""Sizes that fill neither a vector nor a panel."""


SHAPES = {"even": {"hidden_size": 64, "intermediate_size": 160}, "odd": ODD}
MODELS = [(dtype, "float32", "llama", shape) for dtype in DTYPES for shape in SHAPES]
MODELS += [("int8", "float32", kind, "even") for kind in KINDS if kind not in ("llama", *PLAIN)]
MODELS += [("bfloat16", "float32", "gemma3", "odd"), ("int8-channels", "float32", "glm4", "even")]
MODELS += [("int8", cache, "llama", shape) for cache in ("bfloat16", "int8") for shape in SHAPES]


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def model(request: Any, tmp_path_factory: Any) -> NativeDecoder:
    dtype, cache, kind, shape = request.param
    settings = KINDS[kind] | SHAPES[shape]
    path = make_checkpoint(tmp_path_factory.mktemp("model"), kind, **settings)
    return NativeDecoder.load(path, dtype=DTYPES[dtype], cache_dtype=CACHE_DTYPES[cache], threads=1)


def rows_after(model: NativeDecoder, text: tuple[int, ...], tokens: tuple[int, ...]) -> Any:
    [rows] = model.forward(
        [Segment(begin(model, text), as_ids(tokens))], [np.arange(-1, len(tokens))]
    )
    return rows


TEXT, MORE = random_ids(70), random_ids(33, seed=1)


def test_rows_do_not_depend_on_the_width(model: NativeDecoder) -> None:
    whole = rows_after(model, TEXT, MORE)
    for width in range(len(MORE)):
        part = rows_after(model, TEXT, MORE[:width])
        assert torch.equal(part.logits, whole.logits[: width + 1])
        assert torch.equal(part.hidden, whole.hidden[: width + 1])


def test_rows_do_not_depend_on_how_they_were_reached(model: NativeDecoder) -> None:
    whole = rows_after(model, TEXT, MORE).logits
    cache = begin(model, TEXT)
    for i, token in enumerate(MORE):
        assert torch.equal(next_logits(model, cache), whole[i])
        cache.commit([token])


def test_rows_do_not_depend_on_siblings(model: NativeDecoder) -> None:
    """The second of two branches lies behind the first in memory, yet reads as if alone."""
    tokens, parents = as_ids([5, 6, 7, 8, 9]), as_ids([-1, -1, 0, 1, 3])
    tree = tree_logits(model, begin(model, TEXT), tokens, parents)
    chain = rows_after(model, TEXT, (6, 8, 9)).logits
    assert torch.equal(tree[[0, 2, 4, 5]], chain)


def test_rows_do_not_depend_on_the_batch_or_on_threads(model: NativeDecoder) -> None:
    texts = [random_ids(n, seed=n) for n in (3, 70, 18)]
    alone = [next_logits(model, begin(model, text)) for text in texts]
    before = model.threads
    for threads in (1, 2, 5):
        model.threads = Threads.fixed(threads)
        caches = model.start([Prompt(token_ids=text) for text in texts])
        rows = model.forward([Segment(c, NO_IDS) for c in caches], [as_ids([-1])] * 3)
        for own, row in zip(alone, rows, strict=True):
            assert torch.equal(row.logits[0], own)
    model.threads = before


@pytest.mark.parametrize("banned", [(), (*range(0, 288, 2), 999)], ids=["all", "odd"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_writes_what_a_loop_would(
    model: NativeDecoder, temperature: float, banned: tuple[int, ...]
) -> None:
    """A chain in one call, on a plain text and below a branch of a draft."""
    top_p = 0.9 if temperature else 1.0
    params = SamplingParams(temperature=temperature, top_p=top_p, seed=3, banned_tokens=banned)
    sampler = Sampler(params, end_ids=(1,))
    for branch in (False, True):
        looped, written = begin(model, TEXT), begin(model, TEXT)
        for cache in (looped, written):
            if branch:
                tokens, parents = as_ids([5, 6, 7]), as_ids([-1, -1, 1])
                model.forward([Segment(cache, tokens, parents)], [NO_IDS])
        start = Segment(looped, as_ids([9])) if branch else Segment(looped, NO_IDS)
        expected: list[int] = []
        row = looped.num_speculative if branch else -1
        while len(expected) < 6 and 1 not in expected:
            [rows] = model.forward([start], [as_ids([row])])
            expected.append(sampler.choose(rows.logits[0], [0] * (4 + len(expected))))
            row, start = looped.num_speculative, Segment(looped, as_ids(expected[-1:]))
        segment = Segment(written, as_ids([9]) if branch else NO_IDS)
        [tokens] = model.write_chains([ChainRequest(segment, sampler, [0] * 4, 6)]) or []
        assert tokens.tolist() == expected
        assert written.num_speculative == looped.num_speculative
        assert written.match_prefix([*([9] if branch else []), *expected]) == looped.match_prefix(
            [*([9] if branch else []), *expected]
        )
        for cache in (looped, written):
            cache.commit(expected)
        assert torch.equal(next_logits(model, looped), next_logits(model, written))


def test_writes_up_to_the_end_of_the_window(model: NativeDecoder) -> None:
    cache = begin(model, random_ids(model.info.context_length - 3))
    sampler = Sampler(SamplingParams(seed=0))
    [tokens] = model.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, [], 50)]) or []
    assert len(tokens) == 4 and cache.num_speculative == 3


def test_writes_nothing_when_asked_for_nothing(model: NativeDecoder) -> None:
    cache = begin(model, TEXT)
    [tokens] = (
        model.write_chains(
            [ChainRequest(Segment(cache, NO_IDS), Sampler(SamplingParams(seed=0)), [], 0)]
        )
        or []
    )
    assert len(tokens) == 0 and not cache.fed


def test_leaves_other_samplers_to_the_loop(model: NativeDecoder) -> None:
    cache = begin(model, TEXT)
    sampler = Sampler(SamplingParams(seed=0, repetition_penalty=1.5))
    assert model.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, [], 5)]) is None
    assert not cache.fed


def test_int8_is_near_float32(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3", hidden_size=64, intermediate_size=128)
    exact = NativeDecoder.load(path, dtype=torch.float32)
    text = random_ids(100)
    for name in ("int8", "int8-channels"):
        brief = NativeDecoder.load(path, dtype=DTYPES[name])
        close(all_logits(brief, text), all_logits(exact, text), tolerance=0.25)
        assert brief.info.fingerprint == exact.info.fingerprint
        assert brief.info.weight_bytes < 0.35 * exact.info.weight_bytes


def test_sixteen_bits_give_the_bits_of_float32_on_the_same_weights(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3", hidden_size=36, intermediate_size=50)
    text = random_ids(40)
    for dtype in (torch.bfloat16, torch.float16):
        tensors = load_file(path / "model.safetensors")
        save_file({k: v.to(dtype) for k, v in tensors.items()}, path / "model.safetensors")
        brief, exact = (NativeDecoder.load(path, dtype=kind) for kind in (dtype, torch.float32))
        assert torch.equal(all_logits(brief, text), all_logits(exact, text))
        save_file(tensors, path / "model.safetensors")


# -- weights and activations that are out of the ordinary --------------------------------------


def test_quantized_channels() -> None:
    weight = torch.randn(40, 33, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    weight[4, 5] = float("nan")
    weight[6, 1] = float("inf")
    quantized = quantize_channels(weight)
    sound = [i for i in range(40) if i not in (4, 6)]
    error = (quantized.dequantize() - weight)[sound].abs()
    assert bool((error <= quantized.scales[sound, None] / 2 + 1e-7).all())
    assert quantized.scales[3] == 0 and not quantized.quants[3].any()
    assert quantized.scales[[4, 6]].isnan().all()
    assert quantized.quants.abs().max() == 127


def with_weights(path: Path, **changes: Any) -> Path:
    """Change tensors of the checkpoint by name, `value` everywhere or at a place."""
    file = path / "model.safetensors"
    tensors = load_file(file)
    for name, change in changes.items():
        change(tensors[name.replace("__", ".")])
    save_file(tensors, file, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_zero_channels_and_rows(dtype: torch.dtype, tmp_path: Path) -> None:
    """An identity block, and a token whose embedding is zero: no division by zero."""
    path = make_checkpoint(tmp_path / "model", "llama")
    with_weights(
        path,
        model__layers__0__self_attn__o_proj__weight=torch.Tensor.zero_,
        model__layers__0__mlp__down_proj__weight=torch.Tensor.zero_,
        model__embed_tokens__weight=lambda weight: weight[7].zero_(),
    )
    from outrider.models.llama.decoder import Decoder

    ours = all_logits(NativeDecoder.load(path, dtype=dtype), (7, 7, 3, 7))
    assert bool(ours.isfinite().all())
    close(
        ours, all_logits(Decoder.load(path), (7, 7, 3, 7)), 1e-4 if dtype == torch.float32 else 0.2
    )


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_passed_on(
    dtype: torch.dtype, bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one token breaks is seen in its own row and those after it, and nowhere before.

    The check of weights is switched off; sums that overflow have the same effect.
    """
    monkeypatch.setattr(checkpoint, "check_finite", lambda *_: None)

    def spoil(weight: torch.Tensor) -> None:
        weight[7, 3] = bad

    path = make_checkpoint(tmp_path / "model", "llama", tie_word_embeddings=False)
    with_weights(path, model__embed_tokens__weight=spoil)
    logits = all_logits(NativeDecoder.load(path, dtype=dtype), (1, 2, 7, 3))
    assert logits[:2].isfinite().all()
    assert logits[2:].isnan().all()


# -- loading --------------------------------------------------------------------------------


def test_without_kernels_there_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(tmp_path / "model", "llama")
    monkeypatch.setattr("outrider.models.cpu.native.library", lambda: None)
    with pytest.raises(CheckpointError, match="compiled kernels are missing"):
        NativeDecoder.load(path)


def test_quality_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "cache"))
    path = make_checkpoint(tmp_path / "model", "llama", vocab_size=64)
    first = quality_of(open_checkpoint(path), FORMATS["int8"])
    assert 0 <= first.kl < first.loss and 0.5 < first.agreement <= 1
    monkeypatch.setattr("outrider.models.quality.compare", lambda *_: pytest.fail("again"))
    assert quality_of(open_checkpoint(path), FORMATS["int8"]) == first


def test_quality_sees_what_is_lost(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "llama", vocab_size=64)
    other = make_checkpoint(tmp_path / "other", "llama", vocab_size=64, seed=9)
    exact = NativeDecoder.load(path, dtype=torch.float32)
    ids = [i % 64 for i in random_ids(40)]
    logits = read(exact, ids)
    assert compare([logits], [logits]).kl == 0 and compare([logits], [logits]).good
    worse = compare([logits], [read(NativeDecoder.load(other), ids)])
    assert worse.kl > 0.01 and not worse.good


def test_threads_are_chosen_by_rows() -> None:
    threads = Threads((1, 4, 16), (1, 2, 8))
    assert [threads.of(rows) for rows in (1, 3, 4, 15, 16, 500)] == [1, 1, 2, 2, 8, 8]
    assert Threads.fixed(3).of(1) == 3
