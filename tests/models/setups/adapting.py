"""Adapters written by peft itself, with random matrices, and what peft makes of them."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

TEXT = r".*(text_model|language_model|model)\.layers\.\d+\.(self_attn|mlp)\.(q|v|down)_proj"
"""Some matrices of any decoder, and none of a vision tower."""


def adapted(model: Any, folder: Path, *, seed: int = 0, std: float = 0.3, **settings: Any) -> Any:
    """Write an adapter for `model` into `folder`; `model` with the adapter merged by peft."""
    given = {"r": 3, "lora_alpha": 5, "target_modules": TEXT} | settings
    with warnings.catch_warnings():  # peft asks transformers in words of its last version
        warnings.simplefilter("ignore", FutureWarning)
        wrapped: Any = get_peft_model(model, LoraConfig(**given))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.copy_(std * torch.randn(weight.shape, generator=generator))
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return wrapped.merge_and_unload()
