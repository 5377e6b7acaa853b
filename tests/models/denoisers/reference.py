"""Synthetic checkpoints, and a plain computation of a denoiser in float64."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.denoisers.formats import DenoiserConfig, read_denoiser, renamed
from outrider.models.llama.weights import expected_shapes

MASK = 3
OWN = {
    "model_type": "outrider_denoiser",
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,
    "mask_token_id": MASK,
    "eos_token_id": 1,
}
DREAM = {**OWN, "model_type": "Dream", "tie_word_embeddings": False, "rms_norm_eps": 1e-6}
LLADA = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "vocab_size": 29,
    "embedding_size": 32,
    "d_model": 16,
    "mlp_hidden_size": 24,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 4,
    "max_sequence_length": 24,
    "mask_token_id": MASK,
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "rope_theta": 500.0,
    "weight_tying": False,
    "include_bias": False,
    "include_qkv_bias": False,
}
_LLADA_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "model.embed_tokens": "model.transformer.wte",
    "model.norm": "model.transformer.ln_f",
    "lm_head": "model.transformer.ff_out",
}


def written(folder: Path, config: dict[str, object], seed: int = 0) -> Path:
    """Write a checkpoint with random weights; its tensors have the names of its kind."""
    shape = read_denoiser(config).decoder
    random = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(size, generator=random, dtype=torch.float64)
        * (0.2 if "norm" in name else 0.4)
        + (1.0 if "norm" in name else 0.0)
        for name, size in expected_shapes(shape).items()
    }
    if config["model_type"] == "llada":
        tensors = {_as_llada(name): tensor for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _as_llada(name: str) -> str:
    for ours, theirs in _LLADA_NAMES.items():
        if (f"{ours}." in name and ours != "model.norm") or name == f"{ours}.weight":
            name = name.replace(f"{ours}.", f"{theirs}.")
            break
    return name.replace("model.layers.", "model.transformer.blocks.")


class Plain:
    """A whole forward over all positions, written out one head and one row at a time."""

    def __init__(self, folder: Path) -> None:
        checkpoint = open_checkpoint(folder)
        self.config: DenoiserConfig = read_denoiser(checkpoint.config)
        stored = load_file(folder / "model.safetensors")
        tensors = renamed(checkpoint).tensors
        self.weights = {ours: stored[info.name].numpy() for ours, info in tensors.items()}

    def logits(self, ids: IntArray) -> Tensor:
        """Logits of all positions `[length, vocab]`."""
        logits = self._logits(ids, np.arange(len(ids)))
        if self.config.shifted:
            logits = np.concatenate((logits[:1], logits[:-1]))
        return torch.from_numpy(logits)

    def predictions(self, seen: dict[int, int], rows: Sequence[int]) -> Tensor:
        """Logits of these rows, unshifted, of the tokens at these positions only."""
        places = sorted(seen)
        ids = np.array([seen[place] for place in places])
        logits = self._logits(ids, np.array(places))
        return torch.from_numpy(logits[[places.index(row) for row in rows]])

    def _logits(self, ids: IntArray, positions: IntArray) -> np.ndarray:
        self._positions = positions
        own, weights = self.config.decoder, self.weights
        rows = weights["model.embed_tokens.weight"][ids] * own.scales.embedding
        for layer in range(own.num_layers):
            prefix = f"model.layers.{layer}."
            normed = self._norm(rows, prefix + "input_layernorm")
            rows = rows + self._attention(normed, prefix + "self_attn.")
            normed = self._norm(rows, prefix + "post_attention_layernorm")
            gate = self._linear(normed, prefix + "mlp.gate_proj")
            up = self._linear(normed, prefix + "mlp.up_proj")
            inner = gate / (1 + np.exp(-gate)) * up
            rows = rows + self._linear(inner, prefix + "mlp.down_proj")
        head = "model.embed_tokens" if own.tied else "lm_head"
        logits = self._linear(self._norm(rows, "model.norm"), head) / own.scales.logits
        logits[:, self.config.mask_id] = -np.inf
        return logits

    def _norm(self, rows: np.ndarray, name: str) -> np.ndarray:
        mean = (rows**2).mean(axis=-1, keepdims=True)
        scaled = rows / np.sqrt(mean + self.config.decoder.norm_eps)
        return scaled * self.weights[f"{name}.weight"]

    def _linear(self, rows: np.ndarray, name: str) -> np.ndarray:
        out = rows @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return out if bias is None else out + bias

    def _attention(self, rows: np.ndarray, prefix: str) -> np.ndarray:
        own = self.config.decoder
        queries, keys, values = (
            self._linear(rows, f"{prefix}{part}_proj").reshape(len(rows), -1, own.head_dim)
            for part in "qkv"
        )
        queries, keys = self._turned(queries), self._turned(keys)
        group, out = own.num_heads // own.num_kv_heads, np.zeros_like(queries)
        for head in range(own.num_heads):
            scores = queries[:, head] @ keys[:, head // group].T / np.sqrt(own.head_dim)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            out[:, head] = weights @ values[:, head // group]
        return self._linear(out.reshape(len(rows), -1), f"{prefix}o_proj")

    def _turned(self, heads: np.ndarray) -> np.ndarray:
        own, half = self.config.decoder, self.config.decoder.head_dim // 2
        frequencies = own.rope.frequencies.double().numpy()
        angles = self._positions[:, None, None] * frequencies
        first, second = heads[..., :half], heads[..., half:]
        return np.concatenate(
            (
                first * np.cos(angles) - second * np.sin(angles),
                second * np.cos(angles) + first * np.sin(angles),
            ),
            axis=-1,
        )


def text(length: int, seed: int = 0, *, masked: float = 0.5) -> IntArray:
    """A random text with masks."""
    random = np.random.default_rng(seed)
    ids = random.integers(4, 29, length)
    ids[random.random(length) < masked] = MASK
    return ids
