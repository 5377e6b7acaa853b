"""Checkpoints as GGUF: read back by the gguf package, and run by llama.cpp."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from outrider.bench.rivals.gguf_export import export_gguf
from outrider.core.errors import CheckpointError, MissingExtraError, OptionError
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.sources.families import families_folder
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import LLAMA3
from tests.models.setups.reference import all_logits, close, random_ids

gguf = pytest.importorskip("gguf", reason="needs gguf")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama own head_dim": ("llama", {"head_dim": 20}),
    "llama one key head": ("llama", {"num_key_value_heads": 1, "rms_norm_eps": 0.1}),
    "llama theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    "llama linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama llama3": ("llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "mistral wide window": ("mistral", {"sliding_window": 4096}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
}


def read(file: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Fields and dequantised tensors."""
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in reader.tensors
    }
    return fields, tensors


@pytest.mark.parametrize(("kind", "error"), [("f32", 0.0), ("f16", 1e-3), ("q8_0", 0.01)])
def test_what_is_written_is_read_back(kind: str, error: float, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "llama", attention_bias=True, intermediate_size=64)
    fields, tensors = read(export_gguf(path, tmp_path / "out" / "model.gguf", kind))
    assert fields["general.architecture"] == "llama"
    assert fields["llama.block_count"] == 2 and fields["llama.attention.head_count_kv"] == 2
    assert fields["llama.rope.freq_base"] == pytest.approx(10_000)
    own = load_tensors(c := open_checkpoint(path), c.tensors, torch.float32)
    assert len(tensors) == len(own) and "rope_freqs.weight" not in tensors
    pairs = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    pairs["blk.1.ffn_down.weight"] = "model.layers.1.mlp.down_proj.weight"
    pairs["blk.0.attn_v.bias"] = "model.layers.0.self_attn.v_proj.bias"
    for theirs, ours in pairs.items():
        np.testing.assert_allclose(tensors[theirs], own[ours].numpy(), atol=error)
    halves = own["model.layers.0.self_attn.k_proj.weight"].numpy().reshape(2, 2, 4, 32)
    alternating = tensors["blk.0.attn_k.weight"].reshape(2, 4, 2, 32)
    np.testing.assert_allclose(alternating[:, :, 0], halves[:, 0], atol=error)
    np.testing.assert_allclose(alternating[:, :, 1], halves[:, 1], atol=error)
    assert not list((tmp_path / "out").glob(".*"))


def test_rows_that_are_no_whole_blocks_stay_float(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen2", intermediate_size=40)
    reader = gguf.GGUFReader(export_gguf(path, tmp_path / "model.gguf"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F32" and kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.bias"] == kinds["output_norm.weight"] == "F32"


def test_tokenizer(tmp_path: Path) -> None:
    fields, _ = read(export_gguf(families_folder() / "tiny/draft", tmp_path / "model.gguf"))
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == 4096 and tokens[:2] == ["<|endoftext|>", "<|user|>"]
    assert kinds[0] == 3 and kinds[300] == 1
    assert len(fields["tokenizer.ggml.merges"]) > 3000
    assert fields["tokenizer.ggml.eos_token_id"] == 0


def test_no_tokenizer(tmp_path: Path) -> None:
    fields, _ = read(export_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf"))
    assert fields["tokenizer.ggml.model"] == "no_vocab" and fields["llama.vocab_size"] == 288


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_gives_our_logits(case: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    from outrider.bench.rivals.llamacpp_session import open_session

    kind, overrides = CASES[case]
    path = make_checkpoint(tmp_path / "model", kind, **overrides)
    text = random_ids(90)
    file = export_gguf(path, tmp_path / "model.gguf", "f32")
    with open_session(file, threads=1, half_cache=False, flash=False) as session:
        session.read(text, 0, every=True)
        logits = torch.tensor(np.stack([session.logits(row) for row in range(len(text))]))
    close(logits, all_logits(Decoder.load(path), text), tolerance=1e-3)


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("smollm3", {"num_hidden_layers": 4}, "model_type 'smollm3'"),
        ("mistral", {"sliding_window": 7}, "sliding window"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "RoPE scaling 'dynamic'",
        ),
    ],
)
def test_what_gguf_does_not_cover(
    kind: str, overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path / "model", kind, **overrides)
    with pytest.raises(CheckpointError, match=message):
        export_gguf(path, tmp_path / "model.gguf")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'q4_k' is not supported\. Give f32, f16, q8_0"):
        export_gguf(tmp_path, tmp_path / "model.gguf", "q4_k")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"gguf is not installed\. .*outrider\[bench\]"):
        export_gguf(make_checkpoint(tmp_path / "model"), tmp_path / "model.gguf")
