"""Settings of GGUF files: rotary embeddings, end tokens, parts of a model."""

from pathlib import Path
from typing import Any

import pytest

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import GgufFile, from_checkpoint


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
