"""Random GGUF files in the types of Q4_K_M, and the memory that loading one takes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.large_file.__main__ import summary
from benchmarks.large_file.random_gguf import Shape, more_bits, write_random

from outrider import kernels
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.threads import Threads
from tests.models.setups.reference import all_logits, random_ids

gguf = pytest.importorskip("gguf")
needs_kernels = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())

SMALL = Shape(layers=8, hidden=256, inner=512, heads=4, kv_heads=2, vocab=4100, context=128)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("random") / "small.gguf", SMALL)


def test_the_weights_are_those_that_the_gguf_package_reads(file: Path) -> None:
    """Also their mean and deviation are those of a model."""
    checkpoint = open_checkpoint(file)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    assert len(read) == len(checkpoint.tensors) == 3 + 9 * SMALL.layers
    reordered = ("self_attn.q_proj", "self_attn.k_proj")
    for name, info in checkpoint.tensors.items():
        theirs = gguf.quants.dequantize(read[info.name].data, read[info.name].tensor_type)
        ours = load_tensors(checkpoint, [name], torch.float32)[name].numpy()
        if any(part in name for part in reordered):
            ours, theirs = np.sort(ours, axis=0), np.sort(theirs, axis=0)
        np.testing.assert_array_equal(ours, theirs)
        if ours.ndim == 2:
            assert abs(ours.mean()) < 0.01
            assert 0.8 < ours.std() * ours.shape[1] ** 0.5 < 1.25


def test_the_types_are_those_of_q4_k_m(file: Path) -> None:
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    rich = [i for i in range(SMALL.layers) if kinds[f"blk.{i}.ffn_down.weight"] == "Q6_K"]
    assert rich == [i for i in range(SMALL.layers) if kinds[f"blk.{i}.attn_v.weight"] == "Q6_K"]
    assert rich == [0, 3, 6, 7]
    assert [i for i in range(32) if more_bits(i, 32)] == [
        0,
        1,
        2,
        3,
        *range(6, 28, 3),
        28,
        29,
        30,
        31,
    ]
    assert kinds["output.weight"] == "Q6_K" and kinds["token_embd.weight"] == "Q4_K"
    assert {kinds[f"blk.0.{name}.weight"] for name in ("attn_q", "ffn_up")} == {"Q4_K"}


@needs_kernels
def test_the_file_runs(file: Path) -> None:
    text = "Once upon a time"
    tokenizer = Tokenizer.load(file)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    logits = all_logits(NativeDecoder.load(file, dtype=None, threads=1), random_ids(9))
    assert bool(logits.isfinite().all()) and 0.3 < float(logits.std()) < 3


@needs_kernels
def test_threads_are_measured_on_some_layers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def measured(model: NativeDecoder) -> Threads:
        seen.append(model.info.weight_bytes or 0)
        return Threads.fixed(1)

    monkeypatch.setattr(Threads, "measured", measured)
    whole = NativeDecoder.load(file, dtype=None).info.weight_bytes
    monkeypatch.setattr("outrider.models.cpu.native._MEASURED_BYTES", 1 << 19)
    model = NativeDecoder.load(file, dtype=None)
    assert seen[0] == whole == model.info.weight_bytes and 0 < seen[1] < whole


def test_the_summary_takes_warm_loads_and_all_peaks() -> None:
    record = {"cold": False, "load_s": 2.0, "first_token_s": 3.0, "peak_bytes": 110}
    records = [record | {"tokens_s": [1.0, 3.0]}]
    records.append(record | {"cold": True, "load_s": 9.0, "peak_bytes": 120, "tokens_s": [2.0]})
    found = summary("outrider", records, 100)
    assert (found["load_s"], found["cold_load_s"]) == (2.0, [9.0])
    assert (found["peak_of_file"], found["tokens_s"]) == (1.2, 2.0)


@pytest.mark.slow
@needs_kernels
def test_loading_takes_little_more_than_the_file(tmp_path: Path) -> None:
    """The peak of a process is the weights, Python with PyTorch, and no copy of a layer."""
    shape = Shape(layers=8, hidden=2048, inner=5632, heads=16, kv_heads=16)
    file = write_random(tmp_path / "mid.gguf", shape)
    command = [sys.executable, "-m", "benchmarks.large_file", str(file), "--child", "outrider"]
    command += ["--dtype", "stored", "--cache-dtype", "float32", "--tokens", "4"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[3]
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak_bytes"] - found["imports_bytes"] <= 1.15 * file.stat().st_size + (64 << 20)
