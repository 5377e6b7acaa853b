"""Experts in GGUF files: settings, and merged tensors, which hold one matrix after the other."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.gguf.header import Entry, damaged
from outrider.models.checkpoints.safetensors.experts import EXPERT_NAMES

_HINT = "Give the original checkpoint as a Hugging Face folder"


_PARTS = ("gate", "up", "down")
MODEL_TYPES = {"llama": "mixtral", "qwen3moe": "qwen3_moe"}
"""Architecture of a file with experts -> `model_type` of its configuration."""

_TENSOR = re.compile(
    r"blk\.(?P<layer>0|[1-9][0-9]{0,5})\.ffn_"
    r"(?:(?P<router>gate_inp)|(?P<merged>gate_up|gate|up|down)_exps"
    r"|(?P<part>gate|up|down)\.(?P<expert>0|[1-9][0-9]{0,5}))\.weight"
)


def count_of(file: str, metadata: Mapping[str, JsonValue]) -> int:
    """Return the number of experts of a layer; 0 for models without experts.

    Raises:
        CheckpointError: the number is wrong.
    """
    key = f"{metadata['general.architecture']}.expert_count"
    field = Field(key, ("whole number",), least=0, most="experts", null=False)
    check_fields(file, metadata, (field,))
    return metadata.get(key, 0)


def split(file: Path, entry: Entry, model_type: str, count: int) -> Iterator[tuple[str, Entry]]:
    """Yield the Hugging Face name and the place of each matrix that a tensor of experts holds.

    Nothing is yielded for other tensors.

    Args:
        file: the file in messages.
        entry: the tensor.
        model_type: `mixtral` or `qwen3_moe`.
        count: number of experts.

    Raises:
        CheckpointError: the tensor does not hold one matrix for each expert.
    """
    found = _TENSOR.fullmatch(entry.name)
    if found is None:
        return
    names, layer = EXPERT_NAMES[model_type], f"model.layers.{found['layer']}."
    if found["router"]:
        yield f"{layer}{names.router}.weight", entry
    elif found["part"]:  # files from before April 2024
        name = names.of(int(found["expert"]))[_PARTS.index(found["part"])]
        yield f"{layer}{name}.weight", entry
    else:
        parts = [_PARTS.index(part) for part in found["merged"].split("_")]
        if len(entry.shape) != 3 or entry.shape[0] != count or entry.shape[1] % len(parts):
            raise damaged(
                file, f"tensor {entry.name} has the shape {list(entry.shape)} for {count} experts"
            )
        rows, inputs = entry.shape[1] // len(parts), entry.shape[2]
        nbytes = entry.nbytes // (count * len(parts))
        for i in range(count * len(parts)):
            expert, part = divmod(i, len(parts))
            place = entry.offset + i * nbytes
            one = replace(entry, shape=(rows, inputs), offset=place, nbytes=nbytes)
            yield f"{layer}{names.of(expert)[parts[part]]}.weight", one


_NEUTRAL: dict[str, tuple[JsonValue, ...]] = {
    "expert_gating_func": (0, 1),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0, 1),
    "interleave_moe_layer_step": (0, 1),
    "moe_every_n_layers": (0, 1),
}
"""Settings of experts, and the values with which llama.cpp runs these architectures."""


def expert_settings(
    file: str, metadata: Mapping[str, JsonValue], model_type: str, names: Collection[str]
) -> dict[str, JsonValue]:
    """Return the settings of experts for a configuration.

    As in llama.cpp, the probabilities of the chosen experts are divided by their sum. Layers
    without a router have one MLP.

    Args:
        file: the file in messages.
        metadata: its settings; `count_of` is not 0.
        model_type: `mixtral` or `qwen3_moe`.
        names: Hugging Face names of its tensors.

    Raises:
        CheckpointError: a setting is missing, wrong or not supported.
    """
    prefix = f"{metadata['general.architecture']}."
    for name, neutral in _NEUTRAL.items():
        value = metadata.get(prefix + name)
        if value is not None and value not in neutral:
            raise UnsupportedCheckpointError(
                f"{file} has {prefix}{name} {value!r:.40}, which is not supported", hint=_HINT
            )
    sparse = model_type == "qwen3_moe"
    used, inner = f"{prefix}expert_used_count", f"{prefix}expert_feed_forward_length"
    fields = (
        Field(used, ("whole number",), least=1, most="experts", null=False, needed=True),
        Field(inner, ("whole number",), least=1, most="inner", null=False, needed=sparse),
    )
    check_fields(file, metadata, fields)
    settings = {
        "num_local_experts": count_of(file, metadata),
        "num_experts_per_tok": metadata[used],
    }
    if not sparse:
        return settings
    router = f".{EXPERT_NAMES[model_type].router}.weight"
    routed = {int(name.split(".")[2]) for name in names if name.endswith(router)}
    layers = range(metadata[f"{prefix}block_count"])
    return settings | {
        "moe_intermediate_size": metadata[inner],
        "norm_topk_prob": True,
        "mlp_only_layers": [layer for layer in layers if layer not in routed],
    }


def model_type_of(file: str, metadata: Mapping[str, JsonValue]) -> str | None:
    """Return the `model_type` of a file with experts, or None without any.

    Raises:
        CheckpointError: the architecture has no experts that are supported.
    """
    architecture = metadata["general.architecture"]
    count = count_of(file, metadata)
    if count and architecture not in MODEL_TYPES:
        raise UnsupportedCheckpointError(
            f"{file} is a mixture of experts of the architecture {architecture!r:.60}, which is "
            f"not supported; known: {', '.join(MODEL_TYPES)}",
            hint=_HINT,
        )
    if not count and architecture == "qwen3moe":
        raise CheckpointError(f"{file} has no {architecture}.expert_count", hint=_HINT)
    return MODEL_TYPES[architecture] if count else None
