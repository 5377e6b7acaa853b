"""Tiny random checkpoints of image-text models, written through `transformers`.

Every parameter is random. Their tokenizers spell bytes, then the tokens of the text-only
checkpoints (`make_checkpoints.py`), then what stands for images: a text-only checkpoint with a
tokenizer shares their vocabulary as far as it goes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from outrider.core.types import ImagePrompt, Prompt
from tests.models.setups.make_checkpoints import EOS_ID, SPECIAL_TOKENS, byte_symbols

FAMILIES = ("idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "llava")

VOCAB_SIZE = 320

SIZE = 16
"""Pixels along a side of what a vision tower reads."""
PATCH = 4

_TILES = (
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
_PADS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

MARKS: dict[str, tuple[str, ...]] = {
    "idefics3": _TILES,
    "smolvlm": _TILES,
    "qwen2_vl": _PADS,
    "qwen2_5_vl": _PADS,
    "llava": ("<image>",),
}
"""Tokens from id 260 on."""

IMAGE_TOKEN = {name: "<|image_pad|>" if name.startswith("qwen") else "<image>" for name in FAMILIES}


def image_id(family: str) -> int:
    """The id that stands for a piece of an image."""
    return EOS_ID + len(SPECIAL_TOKENS) + MARKS[family].index(IMAGE_TOKEN[family])


def make_vision_checkpoint(
    path: Path | str,
    family: str,
    *,
    dtype: torch.dtype = torch.float32,
    std: float = 0.3,
    seed: int = 0,
    shake: float = 0.0,
    template: bool = True,
    generation: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
) -> Path:
    """Write a random checkpoint of `family` into the folder `path` and return it.

    Args:
        path: the folder, made if missing.
        family: one of `FAMILIES`.
        dtype: of the weights on disk.
        std: standard deviation of weights and biases; norms get 1 + 2 std noise.
        seed: of the weights.
        shake: noise on top, as a share of each weight's spread; seeds are `seed + 1`. The result
            often agrees with what no shake gives.
        template: whether there is a chat template.
        generation: fields put into generation_config.json.
        text: fields of the text configuration.
    """
    path = Path(path)
    model = make_vision_model(family, std=std, seed=seed, text=text)
    _shake(model, shake, seed + 1)
    model.to(dtype)  # pyright: ignore[reportArgumentType]
    model.save_pretrained(path)
    write_marked_tokenizer(path, family, template=template)
    _write_processor(path, family)
    target = path / "generation_config.json"
    found = json.loads(target.read_text()) if target.is_file() else {}
    target.write_text(json.dumps(found | {"eos_token_id": EOS_ID} | dict(generation or {})))
    return path


def make_text_sibling(
    path: Path | str, family: str, *, shake: float = 0.0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write the text stack of `make_vision_checkpoint` alone, as a text-only model with its
    vocabulary."""
    path = Path(path)
    whole: Any = make_vision_model(family)
    text: Any = whole.config.get_text_config(decoder=True)
    if family.startswith("qwen"):
        rope = {"rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"]}
        settings: Any = _TEXT | {"rope_parameters": rope, "rms_norm_eps": text.rms_norm_eps}
        model: Any = Qwen2ForCausalLM(Qwen2Config(**settings))
    else:
        model = LlamaForCausalLM(text)
    model.model.load_state_dict(whole.get_decoder().state_dict())
    model.lm_head.load_state_dict(whole.get_output_embeddings().state_dict())
    _shake(model, shake, seed=2)
    model.to(dtype).save_pretrained(path)
    write_marked_tokenizer(path, family)
    return path


def _shake(model: Any, amount: float, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += amount * weight.std() * torch.randn(weight.shape, generator=noise)


def make_vision_model(
    family: str, *, std: float = 0.3, seed: int = 0, text: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """The `transformers` model itself, float32, with every parameter random."""
    config, kind = _config(family, dict(text or {}))
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name or "ln_q" in name
            parameter.copy_(1 + 2 * std * noise if norm else std * noise)
    model.tie_weights()
    return model


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A noisy image with a slope, so that sizes, places and seeds tell in the features."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    slope = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray((0.5 * noise + 0.5 * slope).astype(np.uint8), "RGB")


def write_marked_tokenizer(path: Path | str, family: str, *, template: bool = True) -> None:
    """Write a tokenizer of bytes, `SPECIAL_TOKENS` and the marks of `family`."""
    vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([*SPECIAL_TOKENS, *MARKS[family]])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[0]
    )
    if template:
        fast.chat_template = _template(family)
    fast.save_pretrained(path)


def _template(family: str) -> str:
    mark = IMAGE_TOKEN[family]
    if mark == "<|image_pad|>":
        mark = f"<|vision_start|>{mark}<|vision_end|>"
    return (
        "{% for m in messages %}<|{{ m['role'] }}|>"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
        f"{{% if p['type'] == 'image' %}}{mark}{{% else %}}{{{{ p['text'] }}}}{{% endif %}}"
        "{% endfor %}{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


_TEXT: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": EOS_ID,
    "pad_token_id": None,
}

_VISION: Any = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}


def _config(family: str, text: dict[str, Any]) -> tuple[Any, Any]:
    own: Any = _TEXT | text
    ids: Any = {
        "image_token_id": image_id(family),
        "tie_word_embeddings": own["tie_word_embeddings"],
    }
    if family in ("idefics3", "smolvlm"):
        kinds: Any = {
            "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
            "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
        }
        make, kind = kinds[family]
        stack = LlamaConfig(**own | {"head_dim": 8})
        return make(text_config=stack, vision_config=_VISION, scale_factor=2, **ids), kind
    if family == "llava":
        config = LlavaConfig(
            text_config=LlamaConfig(**own | {"head_dim": 8}),
            vision_config=CLIPVisionConfig(**_VISION, projection_dim=16),
            **ids,
        )
        return config, LlavaForConditionalGeneration
    section: Any = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1000.0}
    own = own | {"rope_parameters": section}
    ids |= {
        "video_token_id": image_id(family) + 1,
        "vision_start_token_id": image_id(family) - 2,
        "vision_end_token_id": image_id(family) - 1,
    }
    common: Any = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2}
    if family == "qwen2_vl":
        vision_encoder = common | {
            "embed_dim": 16,
            "hidden_size": own["hidden_size"],
            "mlp_ratio": 2,
        }
        config: Any = Qwen2VLConfig(text_config=own, vision_config=vision_encoder, **ids)
        return config, Qwen2VLForConditionalGeneration
    vision_encoder = common | {
        "hidden_size": 16,
        "out_hidden_size": own["hidden_size"],
        "intermediate_size": 24,
        "window_size": SIZE,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(text_config=own, vision_config=vision_encoder, **ids)
    return config, Qwen2_5_VLForConditionalGeneration


def _write_processor(path: Path, family: str) -> None:
    """preprocessor_config.json and processor_config.json, as the original checkpoints have."""
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    images: dict[str, Any]
    if family in ("idefics3", "smolvlm"):
        name = "Idefics3" if family == "idefics3" else "SmolVLM"
        images = half | {
            "image_processor_type": f"{name}ImageProcessor",
            "do_image_splitting": True,
            "size": {"longest_edge": 2 * SIZE},
            "max_image_size": {"longest_edge": SIZE},
        }
        processor: dict[str, Any] = {"image_seq_len": (SIZE // PATCH) ** 2 // 4}
    elif family == "llava":
        name = "Llava"
        images = half | {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": SIZE},
            "crop_size": {"height": SIZE, "width": SIZE},
        }
        processor = {
            "patch_size": PATCH,
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": "default",
        }
    else:
        name = "Qwen2VL" if family == "qwen2_vl" else "Qwen2_5_VL"
        images = half | {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": PATCH,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "min_pixels": 64,
            "max_pixels": 1024,
        }
        processor = {}
    kind = {"processor_class": f"{name}Processor"}
    (path / "preprocessor_config.json").write_text(json.dumps(images | kind))
    (path / "processor_config.json").write_text(json.dumps(processor | kind))


def asked(*images: Image.Image, question: str = "What?", blank: bool = False) -> ImagePrompt:
    """Images, then a question, by one user."""
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    return ImagePrompt(messages=({"role": "user", "content": parts},), images=images, blank=blank)


def asking(*images: Image.Image, question: str = "What?") -> Prompt:
    """The same as a prompt; tiers without vision encoder read the bytes of the question."""
    ids = tuple(question.encode())
    return Prompt(token_ids=ids, image_prompt=asked(*images, question=question))
