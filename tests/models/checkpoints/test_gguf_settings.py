"""Settings of GGUF files: rotary embeddings, end tokens, parts of a model."""

from pathlib import Path
from typing import Any

import pytest

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.gguf.ends import end_tokens
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from tests.models.checkpoints.gguf_tokens.toys import toy, write_vocabulary
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import GgufFile, booleans, from_checkpoint
from tests.models.setups.runners import KINDS


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    return from_checkpoint(make_checkpoint(tmp_path_factory.mktemp("model"), "qwen3"), {})


ROTARY: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "none": ({}, None),
    "off": ({"scaling.type": "none", "scaling.factor": 4.0}, None),
    "linear": (
        {"scaling.type": "linear", "scaling.factor": 4.0},
        {"rope_type": "linear", "factor": 4},
    ),
    "linear by default": ({"scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4}),
    "old name": ({"scale_linear": 2.0}, {"rope_type": "linear", "factor": 2}),
    "yarn": (
        {
            "scaling.type": "yarn",
            "scaling.factor": 4.0,
            "scaling.original_context_length": 64,
            "scaling.yarn_beta_fast": 16.0,
            "scaling.yarn_beta_slow": 2.0,
        },
        {
            "rope_type": "yarn",
            "factor": 4,
            "original_max_position_embeddings": 64,
            "beta_fast": 16,
            "beta_slow": 2,
        },
    ),
    "amplitude": (
        {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.attn_factor": 0.5},
        {"rope_type": "yarn", "factor": 4, "attention_factor": pytest.approx(0.5693, abs=1e-4)},
    ),
}


@pytest.mark.parametrize("case", ROTARY)
def test_rotary_settings(case: str, sound: GgufFile, tmp_path: Path) -> None:
    given, expected = ROTARY[case]
    settings = {**sound.settings, **{f"qwen3.rope.{key}": one for key, one in given.items()}}
    file = sound.changed(settings=settings).write(tmp_path / "m.gguf")
    config = open_checkpoint(file).config
    assert config["rope_scaling"] == expected
    assert Decoder.load(file).config.rope.frequencies.isfinite().all()


SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "caps of Gemma 2 by default": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "no caps": (
        "gemma2",
        {"attn_logit_softcapping": 0.0, "final_logit_softcapping": 0.0},
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "pattern as a number": (
        "gemma3",
        {"attention.sliding_window_pattern": 3},
        {"sliding_window_pattern": 3, "rms_norm_offset": 0.0},
    ),
    "local base by default": (
        "gemma3",
        {"rope.freq_base_swa": None},
        {"rope_local_base_freq": 10_000.0},
    ),
    "Gemma 3 without windows": (
        "gemma3",
        {"attention.sliding_window": None, "attention.sliding_window_pattern": None},
        {"layer_types": ["full_attention"] * 2},
    ),
    "no window of Phi-4": ("phi3", {"attention.sliding_window": 0}, {"sliding_window": None}),
    "factors of Granite": (
        "granite",
        {"embedding_scale": None, "attention.scale": 0.0},
        {"embedding_multiplier": 1.0, "attention_multiplier": 8**-0.5, "logits_scaling": 2.5},
    ),
}


def of(kind: str, folder: Path, changes: dict[str, Any]) -> Path:
    """A file of a kind whose settings have `changes`; None removes one."""
    sound = from_checkpoint(make_checkpoint(folder / "model", kind, **KINDS[kind]), {})
    settings = {**sound.settings, **{f"{kind}.{key}": one for key, one in changes.items()}}
    kept = {key: one for key, one in settings.items() if one is not None}
    return sound.changed(settings=kept).write(folder / "m.gguf")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_other_architectures(name: str, tmp_path: Path) -> None:
    kind, changes, expected = SETTINGS[name]
    file = of(kind, tmp_path, changes)
    config = open_checkpoint(file).config
    assert {key: config.get(key) for key in expected} == expected
    Decoder.load(file)


def test_the_largest_gemmas_scale_their_scores_by_the_width(tmp_path: Path) -> None:
    """llama.cpp knows them by their number of layers."""
    for kind, layers in (("gemma2", 46), ("gemma3", 62)):
        file = of(kind, tmp_path / kind, {"block_count": layers, "embedding_length": 64})
        assert open_checkpoint(file).config["query_pre_attn_scalar"] == 64 // 4


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "OLMo 3": ("olmo2", {"attention.sliding_window": 4}, "sliding_window 4"),
    "Granite without positions": ("granite", {"rope.scaling.finetuned": False}, "without rotary"),
    "GLM with images": ("glm4", {"rope.dimension_sections": [1, 1, 1, 0]}, "dimension_sections"),
    "caps of Granite": ("granite", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "factor of Phi": ("phi3", {"logit_scale": 2.0}, "logit_scale"),
    "a cap below 0": ("gemma2", {"attn_logit_softcapping": -1.0}, "attn_logit_softcapping"),
    "a pattern of 0": ("gemma3", {"attention.sliding_window_pattern": 0}, "sliding_window_pattern"),
    "too many layers in a pattern": (
        "gemma3",
        {"attention.sliding_window_pattern": booleans([True, False, True])},
        "do not fit 2 layers",
    ),
    "rotation of too many": ("glm4", {"rope.dimension_count": 12}, "rotates 12 of 8"),
    "part of Llama rotates": ("olmo2", {"rope.dimension_count": 4}, "rope.dimension_count"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_runner_computes_is_refused(name: str, tmp_path: Path) -> None:
    kind, changes, word = REFUSED[name]
    with pytest.raises(CheckpointError) as caught:
        Decoder.load(of(kind, tmp_path, changes))
    assert word in caught.value.problem and "\n" not in str(caught.value)


def test_end_tokens_are_those_of_llama_cpp(sound: GgufFile, tmp_path: Path) -> None:
    def ends(tokens: list[str], **ids: int) -> list[int]:
        settings: dict[str, Any] = {**sound.settings, "tokenizer.ggml.tokens": tokens}
        settings |= {f"tokenizer.ggml.{name}": one for name, one in ids.items()}
        file = sound.changed(settings=settings).write(tmp_path / "m.gguf")
        return open_checkpoint(file).generation.get("eos_token_id", [])

    words = ["a", "<|im_end|>", "b", "<|endoftext|>", "<|end|>", "<|return|>"]
    assert ends(words) == [1, 3, 4, 5]
    assert ends(words, eos_token_id=3, eot_token_id=0) == [3, 0, 1, 4, 5]
    assert ends([*words, "<|call|>"], fim_pad_token_id=2) == [2, 1, 3, 5, 6]
    with pytest.raises(CheckpointError, match=r"eos_token_id 288, expected .* from 0 to 287"):
        ends(words, eos_token_id=288)


WORDS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "named": ((), {"eos_token_id": 5, "eot_token_id": 7}),
    "default": ((), {}),
    "turns": (("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "[EOT]", "<|pad|>"), {}),
    "harmony": (("<|end|>", "<|return|>", "<|call|>"), {}),
    "solar": (("<|end|>", "<|calls|>", "<|flush|>"), {}),
    "half of it": (("<|end|>", "<|return|>", "<|calls|>", "</s>"), {}),
    "gemma 4": (("</s>", "<eos>", "<turn|>", "<|tool_response>"), {"eos_token_id": 4}),
    "plamo": (("</s>", "<|plamo:eos|>"), {}),
    "fill in the middle": (
        (),
        {"fim_pad_token_id": 8, "fim_rep_token_id": 9, "fim_sep_token_id": 3},
    ),
}


@pytest.mark.parametrize("kind", ["smollm", "llama"])
@pytest.mark.parametrize("case", WORDS)
def test_llama_cpp_ends_at_the_same_tokens(case: str, kind: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    metadata = toy(kind)
    for role in ("bos", "eos", "unknown"):
        metadata.pop(f"tokenizer.ggml.{role}_token_id", None)
    words, ids = WORDS[case]
    words = [word for word in words if word not in metadata["tokenizer.ggml.tokens"]]
    added: dict[str, list[Any]] = {"tokens": words}
    added |= {"token_type": [1] * len(words), "scores": [0.0] * len(words)}
    for name, values in added.items():
        if f"tokenizer.ggml.{name}" in metadata:
            metadata[f"tokenizer.ggml.{name}"] = [*metadata[f"tokenizer.ggml.{name}"], *values]
    tokens = metadata["tokenizer.ggml.tokens"]
    metadata |= {f"tokenizer.ggml.{name}": token for name, token in ids.items()}
    write_vocabulary(metadata, tmp_path / "v.gguf")
    model = llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    theirs = [i for i in range(len(tokens)) if llama_cpp.llama_vocab_is_eog(vocabulary, i)]
    assert sorted(end_tokens("v.gguf", metadata, vocabulary=len(tokens))) == theirs


def test_parts_must_belong_together(sound: GgufFile, tmp_path: Path) -> None:
    def split(**numbers: int) -> GgufFile:
        named = {f"split.{key}": one for key, one in numbers.items()}
        return sound.changed(settings={**sound.settings, **named})

    split(count=1, no=0).write(tmp_path / "a.gguf")
    assert open_checkpoint(tmp_path / "a.gguf").tensors
    for wrong in ({"count": 3}, {"no": 1}, {"tensors.count": 4}):
        split(**wrong).write(tmp_path / "b.gguf")
        with pytest.raises(CheckpointError, match=r"split\..* but it is part 1 of 1"):
            open_checkpoint(tmp_path / "b.gguf")
    for name in ("m-00003-of-00002.gguf", "m-00000-of-00001.gguf", "m-00001-of-00000.gguf"):
        sound.write(tmp_path / name)
        with pytest.raises(CheckpointError, match=r"part|missing"):
            open_checkpoint(tmp_path / name)


def test_a_changed_file_is_read_again(sound: GgufFile, tmp_path: Path) -> None:
    file = sound.write(tmp_path / "m.gguf")
    before = open_checkpoint(file).config["max_position_embeddings"]
    changed = {**sound.settings, "qwen3.context_length": before + 1}
    sound.changed(settings=changed).write(file)
    assert open_checkpoint(file).config["max_position_embeddings"] == before + 1
