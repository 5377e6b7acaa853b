"""Tiny heads, as numbers and as files in the formats of other projects."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from outrider.core.values import JsonValue
from outrider.models.heads.config import HeadConfig, HeadKind
from outrider.models.heads.formats.layers import read_layer

WIDTH, TARGET, DRAFT, VOCAB = 16, 16, 12, 40
LAYER: dict[str, JsonValue] = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "max_position_embeddings": 64,
}


def tiny(kind: HeadKind, **changes: object) -> HeadConfig:
    """Return the shape of a tiny head."""
    layer = read_layer(LAYER, DRAFT, "of a test")
    config = HeadConfig(
        kind=kind, layer=layer, states=(1, 2, 4), target_width=TARGET, target_vocab=VOCAB
    )
    return replace(config, **changes)


def numbers(config: HeadConfig, *optional: str) -> dict[str, Tensor]:
    """Return random tensors of a head; norms lie around 1."""
    generator = torch.Generator().manual_seed(5)
    shapes = config.shapes() | {name: config.optional()[name] for name in optional}
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.2 * drawn if "norm" in name else 0.3 * drawn
    tensors["ids"] = torch.arange(DRAFT, dtype=torch.int32) * 3 + 1
    if "successors" in tensors:
        tensors["successors"] = torch.arange(VOCAB, dtype=torch.int32) - 1
    return tensors


def speculators(config: HeadConfig) -> dict[str, JsonValue]:
    """Return config.json of an EAGLE-3 head, from the definition of speculators."""
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_config": {
            "algorithm": "eagle3",
            "verifier": {"name_or_path": "maker/target", "architectures": ["LlamaForCausalLM"]},
        },
        "transformer_layer_config": dict(LAYER),
        "draft_vocab_size": DRAFT,
        "eagle_aux_hidden_state_layer_ids": list(config.states),
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": config.norm_fused,
        "fc_norm": config.norm_states,
        "norm_output": config.norm_output,
    }


def in_speculators(tensors: Mapping[str, Tensor], vocab: int = VOCAB) -> dict[str, Tensor]:
    """Return the tensors by the names of speculators, with its two maps of the vocabulary."""
    found = {name: tensor for name, tensor in tensors.items() if name != "ids"}
    ids = tensors["ids"].long()
    found["d2t"] = ids - torch.arange(len(ids))
    found["t2d"] = torch.zeros(vocab, dtype=torch.bool)
    found["t2d"][ids] = True
    if "fc_norm.weight" in found:
        for index, norm in enumerate(found.pop("fc_norm.weight")):
            found[f"fc_norm.{index}.weight"] = norm.clone()
    if "fc_input_norm.weight" in found:
        found["input_norm.weight"] = found.pop("fc_input_norm.weight")
    return found


def original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by the names of SafeAILab/EAGLE."""
    return {
        name.replace("layers.0.", "midlayer."): tensor
        for name, tensor in in_speculators(tensors).items()
    }


def write(folder: Path, config: Mapping[str, JsonValue], tensors: Mapping[str, Tensor]) -> Path:
    """Write a folder of config.json and weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def mtp_checkpoint(**changes: JsonValue) -> tuple[dict[str, JsonValue], dict[str, Tensor]]:
    """Return a target with an MTP head; its own layers are left out."""
    settings = dict(LAYER) | {"num_hidden_layers": 6, "vocab_size": DRAFT} | changes
    config = tiny(HeadKind.MTP, target_vocab=DRAFT, states=(6,))
    tensors = {f"mtp.{name}": one for name, one in numbers(config).items() if name != "ids"}
    embed = torch.randn(DRAFT, WIDTH, generator=torch.Generator().manual_seed(2))
    return settings, tensors | {"model.embed_tokens.weight": embed}
