"""Builds, exports and reads the Llama-shaped models of a family."""

import copy
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from outrider.training.core.config import Shape
from outrider.training.core.formats import END_OF_TEXT, END_OF_TURN
from outrider.training.core.tokenizer import save_tokenizer


def build_model(shape: Shape, vocab_size: int, longest: int, seed: int) -> LlamaForCausalLM:
    """Build an initialized model in float32; equal seeds give equal parameters."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn_size,
        max_position_embeddings=longest,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config._attn_implementation = "sdpa"
        return LlamaForCausalLM(config).float()


def moved(model: LlamaForCausalLM, to: torch.device | torch.dtype) -> LlamaForCausalLM:
    """Move the model to another device or convert it to another dtype."""
    # A decorator in transformers hides the signature of `to` from type checkers.
    return nn.Module.to(model, to)  # type: ignore[return-value]


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Return the number of parameters with and without the (tied) embedding matrix."""
    total = sum(parameter.numel() for parameter in model.parameters())
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    return total, total - sum(parameter.numel() for parameter in embedding.parameters())


def export_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a bfloat16 checkpoint folder with the tokenizer and the end tokens of chats."""
    ends: list[int] = [tokenizer.encode(name).ids[0] for name in (END_OF_TEXT, END_OF_TURN)]
    small = moved(copy.deepcopy(model), torch.bfloat16)
    longest = int(small.config.max_position_embeddings)
    small.config.eos_token_id = ends
    small.config.pad_token_id = ends[0]
    small.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[0])
    small.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, longest)
