"""How image-text checkpoints of old and new spell their text parts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.text_stack import text_checkpoint, text_stack
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import all_logits, close, random_ids
from tests.models.setups.vision_checkpoints import FAMILIES, make_vision_checkpoint

IDS = random_ids(7, vocab_size=300)


def text_of(path: Path) -> Checkpoint:
    found = text_stack(open_checkpoint(path))
    assert found.checkpoint is not None, found.reason
    return found.checkpoint


def ours(path: Path) -> torch.Tensor:
    return all_logits(Decoder.load(text_of(path), dtype=torch.float64), IDS)


@torch.no_grad()
def theirs(path: Path) -> torch.Tensor:
    whole: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float64).eval()
    return whole(input_ids=torch.tensor([IDS])).logits[0]


@pytest.fixture(scope="module", params=FAMILIES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


def renamed(path: Path, target: Path, rename: Callable[[str], str]) -> Path:
    shutil.copytree(path, target)
    tensors = load_file(path / "model.safetensors")
    new = {rename(name): tensor for name, tensor in tensors.items()}
    save_file(new, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_names_of_the_models_own(path: Path, tmp_path: Path) -> None:
    """What `transformers` calls the tensors in memory may be what a file calls them."""
    whole: Any = AutoModelForImageTextToText.from_pretrained(path)
    target = tmp_path / "new"
    shutil.copytree(path, target)
    save_file(
        {name: tensor.contiguous() for name, tensor in whole.state_dict().items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert torch.equal(ours(target), ours(path))


def test_settings_between_those_of_the_whole(tmp_path: Path) -> None:
    """Qwen2-VL as it was published: no text_config, and positions in `rope_scaling`."""
    path = make_vision_checkpoint(tmp_path / "qwen", "qwen2_vl")
    config = json.loads((path / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = text | config | {"rope_theta": rope["rope_theta"], "model_type": "qwen2_vl"}
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    expected = theirs(path)
    (path / "config.json").write_text(json.dumps(flat))
    close(ours(path), expected, 1e-5)
    assert Decoder.load(text_of(path)).config.rope.sections == (2, 1, 1)


def test_settings_that_are_left_out(tmp_path: Path) -> None:
    """LLaVA as it was published names little of its text part."""
    path = make_vision_checkpoint(tmp_path / "llava", "llava")
    config = json.loads((path / "config.json").read_text())
    config["text_config"] = {"model_type": "llama", "max_position_embeddings": 4096}
    (path / "config.json").write_text(json.dumps(config))
    text = text_of(path).config
    known = transformers.LlamaConfig().to_dict()
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
        assert text[key] == known[key]
    assert text["num_attention_heads"] == known["num_attention_heads"]


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3"])
def test_assumed_sizes_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    path = make_vision_checkpoint(tmp_path / "llava", "llava")
    config = json.loads((path / "config.json").read_text())
    config["text_config"] = {"model_type": kind}
    (path / "config.json").write_text(json.dumps(config))
    text = text_of(path).config
    known = transformers.AutoConfig.for_model(kind).to_dict()
    assert {key: known[key] for key in text if key in _SIZES} == {
        key: text[key] for key in text if key in _SIZES
    }


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_embeddings(family: str, tmp_path: Path) -> None:
    path = make_vision_checkpoint(tmp_path / family, family, text={"tie_word_embeddings": True})
    assert "lm_head.weight" not in text_of(path).tensors
    close(ours(path), theirs(path), 1e-5)


def test_end_tokens_and_fingerprint(path: Path) -> None:
    whole, text = open_checkpoint(path), text_of(path)
    assert text.fingerprint == whole.fingerprint
    assert Decoder.load(text).info.end_ids == (256,)
    assert text.num_parameters < whole.num_parameters


def test_reasons(tmp_path: Path) -> None:
    plain = open_checkpoint(make_checkpoint(tmp_path / "plain"))
    assert text_checkpoint(plain) is None
    assert "model_type 'llama' has no known text part" in str(text_stack(plain).reason)
    path = make_vision_checkpoint(tmp_path / "llava", "llava")
    config = json.loads((path / "config.json").read_text())
    odd = config | {"text_config": config["text_config"] | {"model_type": "gemma"}}
    (path / "config.json").write_text(json.dumps(odd))
    assert "model_type 'gemma' is not supported" in str(text_stack(open_checkpoint(path)).reason)
    none = renamed(path, tmp_path / "none", lambda name: name.replace("embed_tokens", "words"))
    assert "no tensors of a text part" in str(text_stack(open_checkpoint(none)).reason)


def test_windows_with_axes_are_left_to_another_runner(tmp_path: Path) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    path = make_vision_checkpoint(tmp_path / "qwen", "qwen2_vl", text=sliding)
    reason = text_stack(open_checkpoint(path)).reason
    assert reason is not None and "sliding windows are not supported" in reason


_TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}

RELATIVES: dict[str, tuple[str, str, str, str]] = {
    "llava_next": ("LlavaNext", "llama", "clip_vision_model", "image_token_index"),
    "llava_onevision": ("LlavaOnevision", "qwen2", "siglip_vision_model", "image_token_index"),
    "vipllava": ("VipLlava", "llama", "clip_vision_model", "image_token_index"),
    "mistral3": ("Mistral3", "mistral", "pixtral", "image_token_index"),
    "internvl": ("InternVL", "qwen2", "internvl_vision", "image_token_id"),
    "idefics2": ("Idefics2", "mistral", "idefics2_vision", "image_token_id"),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_have_text_parts_too(name: str, tmp_path: Path) -> None:
    stem, text, vision_encoder, token = RELATIVES[name]
    vision = _VISION | {"model_type": vision_encoder}
    if vision_encoder == "internvl_vision":
        vision |= {"image_size": [16, 16], "patch_size": [4, 4]}
    config: Any = getattr(transformers, f"{stem}Config")(
        text_config=_TEXT | {"model_type": text}, vision_config=vision, **{token: 299}
    )
    model: Any = getattr(transformers, f"{stem}ForConditionalGeneration")(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    model.save_pretrained(tmp_path)
    close(ours(tmp_path), theirs(tmp_path), 1e-5)
