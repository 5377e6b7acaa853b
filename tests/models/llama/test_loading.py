"""What the decoder takes, what it refuses by name, and what it says about itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder, supports
from tests.models.setups.make_checkpoints import make_checkpoint, make_model
from tests.models.setups.reference import edited
from tests.models.setups.runners import KINDS

NAMED = {"rope_theta": 1e4}

ODD_PAIRS = {"rope_type": "default", "partial_rotary_factor": 0.13}

UNSUPPORTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "model_type": ("llama", {"model_type": "gpt2"}, "gpt2"),
    "no model_type": ("llama", {"model_type": None}, "None"),
    "architecture": ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "Sequence"),
    "quantised": ("llama", {"quantization_config": {"quant_method": "hqq", "bits": 4}}, "hqq"),
    "activation": ("llama", {"hidden_act": "relu2"}, "relu2"),
    "longrope": ("llama", {"rope_parameters": {"rope_type": "longrope"} | NAMED}, "longrope"),
    "unknown rope": ("llama", {"rope_scaling": {"type": "su", "factor": 2.0}}, "su"),
    "rope without factor": ("llama", {"rope_scaling": {"type": "linear"}}, "factor"),
    "rope by layer": (
        "qwen3",
        {"rope_parameters": {"full_attention": {"rope_type": "default"} | NAMED}},
        "by layer",
    ),
    "partial rotation": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "partial rotation within": (
        "qwen2",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5} | NAMED},
        "partial_rotary_factor",
    ),
    "partial rotation of no pair": ("glm4", {"rope_parameters": NAMED | ODD_PAIRS}, "of 8 dim"),
    "both directions": ("gemma3", {"use_bidirectional_attention": True}, "bidirectional"),
    "activation of Gemma": ("gemma2", {"hidden_activation": "quick_gelu"}, "hidden_activation"),
    "layer type": ("qwen3", {"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
    "layer types of Llama": ("llama", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    "window without size": ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    "too few layer types": ("qwen2", {"layer_types": ["full_attention"]}, "layer_types"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    kind, changes, word = UNSUPPORTED[name]
    path = make_checkpoint(tmp_path / "model", kind)
    assert supports(open_checkpoint(path).config) is None
    wrong = edited(path, tmp_path / "wrong", **changes)
    reason = supports(open_checkpoint(wrong).config)
    assert reason is not None and word in reason and "\n" not in reason
    with pytest.raises(UnsupportedCheckpointError, match=word):
        Decoder.load(wrong)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "3 key-value heads"),
        ({"head_dim": 7}, "7 dimensions"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model")
    wrong = edited(path, tmp_path / "wrong", **changes)
    with pytest.raises(CheckpointError, match=word):
        Decoder.load(wrong)


def rewritten(path: Path, **changes: torch.Tensor | None) -> Path:
    file = path / "model.safetensors"
    weights = load_file(file) | changes
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, file, {"format": "pt"})
    return path


Q_PROJ = "model.layers.1.self_attn.q_proj"


def test_missing_tensor(tmp_path: Path) -> None:
    path = rewritten(make_checkpoint(tmp_path / "model"), **{f"{Q_PROJ}.weight": None})
    with pytest.raises(CheckpointError, match=rf"lacks tensor {Q_PROJ}.weight"):
        Decoder.load(path)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_unexpected_tensor(kind: str, tmp_path: Path) -> None:
    path = rewritten(make_checkpoint(tmp_path / "m", kind), **{f"{Q_PROJ}.bias": torch.ones(32)})
    with pytest.raises(CheckpointError, match=rf"unexpected tensor {Q_PROJ}.bias"):
        Decoder.load(path)


def test_missing_bias(tmp_path: Path) -> None:
    path = rewritten(make_checkpoint(tmp_path / "m", "qwen2"), **{f"{Q_PROJ}.bias": None})
    with pytest.raises(CheckpointError, match=rf"lacks tensor {Q_PROJ}.bias"):
        Decoder.load(path)


def test_wrong_shape(tmp_path: Path) -> None:
    path = rewritten(make_checkpoint(tmp_path / "m"), **{f"{Q_PROJ}.weight": torch.ones(32, 31)})
    with pytest.raises(CheckpointError, match=r"shape \[32, 31\], config.json implies \[32, 32\]"):
        Decoder.load(path)


def test_weights_that_are_integers(tmp_path: Path) -> None:
    ints = torch.ones(32, 32, dtype=torch.int8)
    path = rewritten(make_checkpoint(tmp_path / "m"), **{f"{Q_PROJ}.weight": ints})
    with pytest.raises(UnsupportedCheckpointError, match="I8"):
        Decoder.load(path)


def test_old_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    Decoder.load(rewritten(make_checkpoint(tmp_path / "m"), **buffer))


def test_tied_model_without_embedding_takes_the_head(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m", tie_word_embeddings=True)
    before = Decoder.load(path)
    embed = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    rewritten(path, **{"model.embed_tokens.weight": None, "lm_head.weight": embed})
    after = Decoder.load(path)
    assert torch.equal(after.weights.embed, before.weights.embed)
    assert after.info.num_parameters == before.info.num_parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_properties(kind: str, tied: bool, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "small", kind, tie_word_embeddings=tied)
    model = Decoder.load(path)
    theirs = make_model(kind, tie_word_embeddings=tied)
    assert model.info.name == "small" and Decoder.load(path, name="draft").info.name == "draft"
    assert model.info.vocab_size == 288 and model.info.context_length == 256
    assert model.info.num_parameters == theirs.num_parameters()
    assert model.info.bytes_per_token == 2 * 2 * 2 * 8 * 4
    assert Decoder.load(path, dtype=torch.bfloat16).info.bytes_per_token == 2 * 2 * 2 * 8 * 2
    assert model.dtype == torch.float32 and model.device == torch.device("cpu")
    assert model.info.fingerprint == open_checkpoint(path).fingerprint
    ids = torch.tensor([3, 5])
    assert torch.equal(model.embed(ids.numpy()), theirs.get_input_embeddings()(ids))


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (None, {}, ()),
        (0, {}, (0,)),
        ([4, 5], {}, (4, 5)),
        (4, {"eos_token_id": [0, 7]}, (0, 7)),
        (4, {"eos_token_id": 0}, (0,)),
    ],
)
def test_end_ids(config: Any, generation: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m", eos_token_id=config, generation=generation)
    assert Decoder.load(path).info.end_ids == expected


def test_end_ids_without_a_generation_config(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m", tokenizer=True)
    (path / "generation_config.json").unlink()
    model = Decoder.load(path)
    assert model.info.end_ids == (256,) and model.info.generation_defaults == {}


def test_generation_defaults(tmp_path: Path) -> None:
    given = {"temperature": 0.6, "top_k": 20, "do_sample": True, "max_new_tokens": 9, "top_p": None}
    defaults = Decoder.load(
        make_checkpoint(tmp_path / "m", generation=given)
    ).info.generation_defaults
    assert defaults["temperature"] == 0.6 and defaults["top_k"] == 20
    assert defaults["do_sample"] is True and defaults["max_new_tokens"] == 9
    assert "top_p" not in defaults and not any(key.startswith("_") for key in defaults)
    assert "transformers_version" not in defaults


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 4.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
    ],
)
def test_context_length(rope: dict[str, Any], expected: int, tmp_path: Path) -> None:
    parameters = rope | {"rope_theta": 1e4}
    path = make_checkpoint(tmp_path / "m", hidden_size=64, head_dim=16, rope_parameters=parameters)
    assert Decoder.load(path).info.context_length == expected


def test_an_opened_checkpoint_will_do(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m")
    assert (
        Decoder.load(open_checkpoint(path)).info.fingerprint == Decoder.load(path).info.fingerprint
    )


def test_half_precision_on_disk(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m", "qwen2", dtype=torch.bfloat16)
    assert json.loads((path / "config.json").read_text())["dtype"] == "bfloat16"
    model = Decoder.load(path)
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert torch.equal(model.weights.embed, theirs.model.embed_tokens.weight)
