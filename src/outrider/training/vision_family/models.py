"""Builds and exports the parts of a vision-language family.

The captioner is an Idefics3 (like SmolVLM): a small transformer reads patches of an image, four
adjacent ones become one token, and a Llama reads these tokens together with words.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaForCausalLM,
)

from outrider.models.sources.families import families_folder
from outrider.training.core.formats import END_OF_TEXT, END_OF_TURN
from outrider.training.vision_family.config import TowerShape, VisionFamilyConfig

IMAGE, AROUND, WHOLE, UTTERANCE = (
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
)
"""Idefics3's tokens for an image, the marks around an image, and the end of an utterance."""

LONGEST_SENTENCE = 64
"""Largest number of tokens that the scorer reads."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def language_folder(config: VisionFamilyConfig, tier: str) -> Path:
    """Return the folder of one tier of the language family."""
    named = families_folder() / config.language / tier
    return named if named.is_dir() else Path(config.language) / tier


def caption_tokenizer(config: VisionFamilyConfig) -> Any:
    """Return the language family's tokenizer with added image marks."""
    tokenizer = AutoTokenizer.from_pretrained(
        language_folder(config, "target"), trust_remote_code=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, AROUND, WHOLE, UTTERANCE]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_captioner(
    config: VisionFamilyConfig, tokenizer: Any, tier: str = "target"
) -> Idefics3ForConditionalGeneration:
    """Build an initialized vision encoder with the language model of `tier`, in float32."""
    language: Any = LlamaForCausalLM.from_pretrained(
        language_folder(config, tier), dtype=torch.float32, trust_remote_code=False
    )
    text = copy.deepcopy(language.config).to_dict()
    vision_encoder = config.vision_encoder
    shape = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=True,
        scale_factor=config.shuffle,
        text_config={**text, "vocab_size": len(tokenizer)},
        vision_config={
            "hidden_size": vision_encoder.hidden_size,
            "intermediate_size": vision_encoder.ffn_size,
            "num_hidden_layers": vision_encoder.layers,
            "num_attention_heads": vision_encoder.heads,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        shape._attn_implementation = "sdpa"
        model = Idefics3ForConditionalGeneration(shape).float()
        language.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    model.model.text_model.load_state_dict(language.model.state_dict())
    return model


class MeanVisionEncoder(nn.Module):
    """The mean of the vision encoder over patches, after its final norm: `[n, width]`."""

    def __init__(self, vision: nn.Module) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode `pixels`, `[n, 3, side, side]`."""
        return self.vision(pixel_values=pixels).last_hidden_state.mean(dim=1)


class Reader(nn.Module):
    """A small text encoder, pooled at the end of the text: `[n, width]`."""

    def __init__(self, shape: TowerShape, vocab_size: int, end: int) -> None:
        super().__init__()
        self.text = CLIPTextModel(_text_config(shape, vocab_size, end))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode texts; `ids` and `mask` are `[n, length]`."""
        return self.text(input_ids=ids, attention_mask=mask).pooler_output


def build_scorer(config: VisionFamilyConfig, vocab_size: int, end: int) -> CLIPModel:
    """Build an initialized CLIP with its own shape and seed."""
    shape = config.scorer
    vision = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "projection_dim": config.projection,
    }
    whole = CLIPConfig(
        text_config=_text_config(shape, vocab_size, end).to_dict(),
        vision_config=vision,
        projection_dim=config.projection,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed + 1000)
        return CLIPModel(whole).float()


def _text_config(shape: TowerShape, vocab_size: int, end: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=LONGEST_SENTENCE,
        eos_token_id=end,
        bos_token_id=end,
        pad_token_id=end,
    )


def export_captioner(
    model: Idefics3ForConditionalGeneration,
    tokenizer: Any,
    config: VisionFamilyConfig,
    folder: Path,
) -> None:
    """Write a bfloat16 checkpoint with its processor, in the format of `transformers`."""
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    small: Any = copy.deepcopy(model)
    small = nn.Module.to(small, torch.bfloat16)
    ends = tokenizer.convert_tokens_to_ids([END_OF_TEXT, END_OF_TURN])
    small.config.text_config.eos_token_id = ends
    small.generation_config = GenerationConfig(
        eos_token_id=ends,
        pad_token_id=ends[0],
        bad_words_ids=[[i] for i in tokenizer.convert_tokens_to_ids([IMAGE, AROUND])],
    )
    small.save_pretrained(folder)
    side = {"longest_edge": config.image_size}
    images = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    Idefics3Processor(
        images, tokenizer, image_seq_len=config.image_tokens, chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)


def export_scorer(
    model: CLIPModel, tokenizer: Any, config: VisionFamilyConfig, folder: Path
) -> None:
    """Write the scorer with its processors, in the format of CLIP."""
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPImageProcessorPil

    small: Any = nn.Module.to(copy.deepcopy(model), torch.bfloat16)
    small.save_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    closing = copy.deepcopy(tokenizer)
    closing.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, end)]
    )
    closing.model_max_length = LONGEST_SENTENCE
    closing.chat_template = None
    closing.padding_side = "right"
    closing.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    CLIPImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size},
        do_center_crop=False,
        image_mean=half,
        image_std=half,
    ).save_pretrained(folder)
