"""Tiny CLIPs with random weights, and one by hand that knows colours."""

from pathlib import Path

import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from outrider.captioning.metrics.clip import ClipScorer

CAPTIONS = ["a red picture", "blue, green; and it's a yellow t-shirt!", "x"]
"""What tests score."""

COLORS = ("red", "green", "blue", "yellow")
SIZE = 16


def noisy(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    pixels = torch.randint(
        256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed)
    )
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def tokenizer() -> CLIPTokenizer:
    """Single letters, but for the words of colours in two pieces."""
    letters = [chr(i) for i in range(33, 127)] + ["Ġ"]
    vocab = {token: i for i, token in enumerate(letters)}
    vocab |= {f"{token}</w>": len(vocab) + i for i, token in enumerate(letters)}
    merges = []
    for word in ("red", "green", "blue", "yellow", "photo", "depicts", "picture"):
        left = word[0]
        for letter in word[1:-1]:
            merges.append((left, letter))
            left += letter
        vocab |= {word[:end]: len(vocab) + end for end in range(2, len(word))}
    vocab = {token: i for i, token in enumerate(vocab)}
    return CLIPTokenizer(vocab=vocab | {END: len(vocab) + 1, BEGIN: len(vocab)}, merges=merges)


BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def scorer(
    *, window: int = 48, layers: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> ClipScorer:
    words = tokenizer()
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    text = CLIPTextConfig(
        **sizes,
        vocab_size=len(words),
        max_position_embeddings=window,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    vision = CLIPVisionConfig(**sizes, image_size=SIZE, patch_size=8)
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    with torch.no_grad():  # attention of fresh weights is all but even, and gradients tiny
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.6 if "proj" in name else 0.3)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    return ClipScorer(model=model.to(dtype), processor=processor, tokenizer=words, name="tiny")


def handmade() -> ClipScorer:
    """One layer by hand, of even attention: a text is its end token's own direction (the last) and
    one direction for each colour it names, as much as its end token attends to them.
    """
    own = scorer(layers=1)
    text = own.model.text_model
    layer = text.encoder.layers[0]
    with torch.no_grad():
        for name, weight in text.named_parameters():
            weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for part in (layer.self_attn.v_proj, layer.self_attn.out_proj):
            part.weight.copy_(torch.eye(32))
        for place, color in enumerate(COLORS):
            others = [*COLORS[:place], *COLORS[place + 1 :], "A photo depicts a picture"]
            own_pieces = pieces(own, color).difference(*(pieces(own, each) for each in others))
            text.embeddings.token_embedding.weight[list(own_pieces), place] = 1.0
        text.embeddings.token_embedding.weight[own.tokenizer.eos_token_id, 15] = 1.0
        own.model.text_projection.weight.copy_(torch.eye(32)[:16])
    return own


def pieces(scorer: ClipScorer, text: str) -> set[int]:
    return set(scorer.tokenizer(text, add_special_tokens=False)["input_ids"])


def seen(color: str) -> torch.Tensor:
    """What `handmade` would see of a plain image, [1, width]: its colour, and that it is one."""
    vector = torch.zeros(1, 16)
    vector[0, [list(COLORS).index(color), 15]] = 0.5**0.5
    return vector


def save(own: ClipScorer, folder: Path) -> Path:
    for part in (own.model, own.processor, own.tokenizer):
        part.save_pretrained(folder)
    return folder
