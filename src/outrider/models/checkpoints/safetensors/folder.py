"""Hugging Face model folders, described without loading the weights.

Weights are read from safetensors only. Pickles (`.bin`, `.pt`, `.pth`) run code when they are
opened, so they are refused by file name and never opened.
"""

from collections.abc import Mapping
from pathlib import Path

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint, fingerprint_of
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.json_file import is_there, read_object
from outrider.models.checkpoints.packed.reading import with_matrices
from outrider.models.checkpoints.safetensors.experts import with_experts
from outrider.models.checkpoints.safetensors.header import read_header
from outrider.models.checkpoints.tables import (
    GENERATION,
    INDEX_FIELDS,
    LAYERS,
    WIDTHS,
    check_config,
)
from outrider.models.checkpoints.tensors import TensorInfo

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_BASE_PARTS = ("embed_tokens.", "layers.", "norm.")
_PLAUSIBLE = 1 << 16
"""Widths up to this size are compared with the tensors by the runner alone."""
_CONVERT = "Convert it to safetensors, such as with save_pretrained of transformers"


def open_folder(folder: Path, single: str = SINGLE) -> Checkpoint:
    """Read the folder at `folder` without its weights.

    Args:
        folder: the folder.
        single: name of the file of weights, if there are no shards.

    Raises:
        CheckpointError: the folder, config.json or safetensors files are missing, or a file is
            damaged.
    """
    _check_folder(folder)
    config = read_object(folder / "config.json")
    check_config(str(folder / "config.json"), config)
    generation = _read_generation(folder / "generation_config.json")
    stored = _read_tensors(folder, single)
    tensors = with_matrices(folder, config, stored)
    if "vision_config" not in config:
        tensors = with_experts(config, with_model_prefix(tensors))
    _check_sizes(folder, config, tensors)
    return Checkpoint(
        path=folder,
        config=config,
        generation=generation,
        tensors=tensors,
        fingerprint=fingerprint_of(config, stored),
    )


# -- checks of a folder ----------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        _refuse_format(folder)
        raise CheckpointError(
            f"{folder} is a file", hint="Give the folder that holds config.json, or a GGUF file"
        )
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no model folder at {folder}",
            hint=f"Give the path of a folder with config.json and {SINGLE}",
        )
    if is_there(folder / "config.json"):
        return
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds an adapter, not a model", hint="Merge it into its base model first"
        )
    raise CheckpointError(
        f"{folder} has no config.json", hint="Give the folder of a complete Hugging Face model"
    )


def _refuse_format(file: Path) -> None:
    if file.suffix in _PICKLES:
        raise CheckpointError(
            f"{file} is a pickle, which can run code and is refused", hint=_CONVERT
        )


def _read_generation(file: Path) -> dict[str, JsonValue]:
    if not is_there(file):
        return {}
    generation = read_object(file)
    check_fields(str(file), generation, GENERATION)
    return generation


def _check_sizes(
    folder: Path, config: Mapping[str, JsonValue], tensors: Mapping[str, TensorInfo]
) -> None:
    """Refuse sizes that the tensors rule out, before a model of these sizes is built.

    Each layer has a tensor, and widths are axes of tensors.
    """
    axes = (axis for info in tensors.values() for axis in info.shape)
    widest = max(axes, default=0)
    for place, part in (("", config), ("text_config.", config.get("text_config") or {})):
        for name, most, reason in (
            *((name, len(tensors), f"hold {len(tensors)} tensors") for name in LAYERS),
            *((name, max(widest, _PLAUSIBLE), f"have axes up to {widest}") for name in WIDTHS),
        ):
            value = part.get(name)
            if isinstance(value, int) and value > most:
                raise CheckpointError(
                    f"{folder / 'config.json'} has {place}{name} {value}, but the weights {reason}",
                    hint="Correct the file, or download the whole model",
                )


def _read_tensors(folder: Path, single: str) -> dict[str, TensorInfo]:
    if is_there(folder / single):
        return read_header(folder / single)
    if is_there(folder / INDEX):
        return _read_shards(folder)
    for file in sorted(folder.iterdir()):
        _refuse_format(file)
    raise CheckpointError(f"{folder} has no weights: expected {SINGLE} or {INDEX}")


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    index = read_object(folder / INDEX, "index_bytes")
    check_fields(str(folder / INDEX), index, INDEX_FIELDS)
    weight_map = index["weight_map"]
    name_of = Field("", ("text",), null=False)
    for name, shard in weight_map.items():
        name_of.check(str(folder / INDEX), shard, f"weight_map[{name!r:.60}]")
    if not weight_map:
        raise CheckpointError(f"{folder / INDEX} has an empty weight_map")
    headers: dict[str, dict[str, TensorInfo]] = {}
    for shard in sorted(set(weight_map.values())):
        file = folder / shard
        if not _is_name(shard) or not is_there(file):
            raise CheckpointError(
                f"{INDEX} lists {shard!r:.100}, which is not in {folder}", hint="Download it again"
            )
        headers[shard] = read_header(file)
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise CheckpointError(f"{INDEX} lists {name} in {shard}, which does not hold it")
    return {name: headers[shard][name] for name, shard in weight_map.items()}


def _is_name(shard: str) -> bool:
    """Whether a text is the plain name of a file: no folder, and no character that none holds."""
    return bool(shard) and shard.isprintable() and Path(shard).name == shard


# -- names -----------------------------------------------------------------------------------


def with_model_prefix(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Name the tensors of a base model (`layers.0...`) as in a whole model (`model.layers.0...`).

    Checkpoints that were saved from a base model, such as `LlamaModel`, lack the prefix.
    """
    if "embed_tokens.weight" not in tensors or any(n.startswith("model.") for n in tensors):
        return tensors
    return {_prefixed(name): info for name, info in tensors.items()}


def _prefixed(name: str) -> str:
    return f"model.{name}" if name.startswith(_BASE_PARTS) else name
