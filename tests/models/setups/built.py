"""Tiny random models of many architectures, built in memory."""

from typing import Any

import torch
import transformers as hf
from transformers import PreTrainedModel

from tests.models.setups.reference import Reference

_SMALL: dict[str, Any] = {
    "vocab_size": 288,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GATED = _SMALL | {"intermediate_size": 48, "num_key_value_heads": 2}
_WINDOW = {"sliding_window": 5}
_MIXED = {"layer_types": ["sliding_attention", "full_attention"]} | _WINDOW
_GPT = {"vocab_size": 288, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _GPT | _IDS),
    "llama": ("Llama", _GATED),
    "qwen2 window": ("Qwen2", _GATED | {"use_sliding_window": True} | _MIXED),
    "mistral window": ("Mistral", _GATED | _WINDOW),
    "neox": ("GPTNeoX", _SMALL | {"intermediate_size": 48}),
    "opt": ("OPT", _SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gemma2 window": ("Gemma2", _GATED | {"head_dim": 8} | _MIXED),
}

ALSO_RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("Gemma3", _GATED | {"head_dim": 8} | _MIXED),
    "phi": ("Phi", _SMALL | {"intermediate_size": 48}),
    "phi3": ("Phi3", _GATED | _WINDOW),
    "gptj": ("GPTJ", _GPT | _IDS | {"rotary_dim": 4}),
    "bigcode": ("GPTBigCode", _GPT | _IDS),
    "falcon": ("Falcon", _SMALL),
    "stablelm": ("StableLm", _GATED),
    "olmo2": ("Olmo2", _GATED),
    "cohere2": ("Cohere2", _GATED | _MIXED),
    "mixtral": ("Mixtral", _GATED | _WINDOW | {"num_local_experts": 4}),
    "gpt_oss": ("GptOss", _GATED | {"head_dim": 8, "num_local_experts": 4} | _MIXED),
}

_LOCAL = {"vocab_size": 288, "hidden_size": 32, "num_layers": 2, "num_heads": 4}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mamba": ("Mamba", {"vocab_size": 288, "hidden_size": 32, "num_hidden_layers": 1}, "recurrent"),
    "jamba": ("Jamba", _GATED | {"num_hidden_layers": 8, "num_experts": 2}, "recurrent"),
    "t5": ("T5", {"vocab_size": 288, "d_model": 32, "num_layers": 1, "d_ff": 32}, "encoder"),
    "bloom": ("Bloom", {"vocab_size": 288, "hidden_size": 32, "n_layer": 1, "n_head": 4}, "ALiBi"),
    "falcon alibi": ("Falcon", _SMALL | {"alibi": True}, "ALiBi"),
    "mpt": ("Mpt", {"vocab_size": 288, "d_model": 32, "n_layers": 1, "n_heads": 4}, "ALiBi"),
    "gpt_neo": (
        "GPTNeo",
        _LOCAL | _IDS | {"attention_types": [[["global", "local"], 1]]},
        "local attention",
    ),
    "llama4_text": (
        "Llama4",
        _GATED | {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 32},
        "chunked_attention",
    ),
}

_HEADS = {"T5": "ForConditionalGeneration", "GPT2": "LMHeadModel"}
_CONFIGS = {"Llama4": "Llama4TextConfig", "Gemma3": "Gemma3TextConfig"}


def build(family: str, settings: dict[str, Any], *, std: float = 0.2) -> PreTrainedModel:
    """The model with random matrices, so that every token and position matters."""
    config = getattr(hf, _CONFIGS.get(family, f"{family}Config"))(**settings)
    model = getattr(hf, family + _HEADS.get(family, "ForCausalLM"))(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model


class BuiltReference(Reference):
    """A model in memory as its own judge: plain passes over whole texts."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._known = {}
