"""Tiny random checkpoints, written through `transformers`.

Every parameter is random, norms and biases too, so that a runner that skips one is seen.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

KINDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "granite": (GraniteConfig, GraniteForCausalLM),
    "glm4": (Glm4Config, Glm4ForCausalLM),
}

SPECIAL_TOKENS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
"""Ids 256, 257, 258, 259 of the tiny tokenizer; ids below are bytes, ids above have no text."""

EOS_ID = 256

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def make_checkpoint(
    path: Path | str,
    kind: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    std: float = 0.1,
    vocab_size: int = 288,
    seed: int = 0,
    tokenizer: bool = False,
    generation: Mapping[str, Any] | None = None,
    shard_size: str = "1GB",
    **config_overrides: Any,
) -> Path:
    """Write a random checkpoint into the folder `path` and return it.

    Args:
        path: the folder, made if missing.
        kind: one of `KINDS`.
        dtype: of the weights on disk.
        std: standard deviation of weights and biases; norms get 1 + 2 std noise.
        vocab_size: at least 260 with `tokenizer`.
        seed: of the weights.
        tokenizer: also write the byte-level tokenizer, with a chat template; `eos_token_id` is
            then 256 unless overridden. Without it the model has no end token.
        generation: fields put into generation_config.json.
        shard_size: largest weight file; such as "20KB" to get a sharded checkpoint.
        **config_overrides: fields of the `transformers` configuration.
    """
    path = Path(path)
    if tokenizer:
        config_overrides = {"eos_token_id": EOS_ID} | config_overrides
    model = make_model(kind, std=std, vocab_size=vocab_size, seed=seed, **config_overrides)
    model.to(dtype)  # pyright: ignore[reportArgumentType]
    model.save_pretrained(path, max_shard_size=shard_size)
    if tokenizer:
        write_tokenizer(path)
    if generation:
        target = path / "generation_config.json"
        target.write_text(json.dumps(json.loads(target.read_text()) | dict(generation)))
    return path


def make_model(
    kind: str = "llama",
    *,
    std: float = 0.1,
    vocab_size: int = 288,
    seed: int = 0,
    **config_overrides: Any,
) -> PreTrainedModel:
    """The `transformers` model itself, float32, with every parameter random."""
    make_config, make = KINDS[kind]
    model = make(make_config(**_SMALL | {"vocab_size": vocab_size} | config_overrides)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 2 * std * noise if "norm" in name else std * noise)
    return model


def write_tokenizer(path: Path | str) -> None:
    """Write a tokenizer whose ids are the bytes of the text, then `SPECIAL_TOKENS`."""
    vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=SPECIAL_TOKENS[0])
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(path)


def byte_symbols() -> list[str]:
    """The printable stand-in of each byte in GPT-2's byte-level alphabet."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    symbols, spare = [], 256
    for byte in range(256):
        symbols.append(chr(byte) if byte in printable else chr(spare))
        spare += byte not in printable
    return symbols
