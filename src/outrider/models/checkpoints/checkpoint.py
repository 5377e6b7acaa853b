"""Hugging Face model folders: describes their content without loading it, and loads tensors.

Weights are read from safetensors only. Pickles (`.bin`, `.pt`, `.pth`) run code when they are
opened, so they are refused by file name and never opened.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.finite import check_finite
from outrider.models.checkpoints.json_file import is_there, read_object
from outrider.models.checkpoints.packed.reading import with_matrices
from outrider.models.checkpoints.safetensors_header import TensorInfo, read_header
from outrider.models.checkpoints.tables import (
    GENERATION,
    INDEX_FIELDS,
    LAYERS,
    WIDTHS,
    check_config,
)
from outrider.models.quantization.grouped import Grouped

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_BASE_PARTS = ("embed_tokens.", "layers.", "norm.")
_PLAUSIBLE = 1 << 16
"""Widths up to this size are compared with the tensors by the runner alone."""
_SAMPLES = 16
_SAMPLE_BYTES = 64
_CONVERT = "Convert it to safetensors, such as with save_pretrained of transformers"


class UnsupportedCheckpointError(CheckpointError):
    """A valid checkpoint that this runner does not support; another runner may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model folder, described without its weights.

    Attributes:
        path: the folder.
        config: config.json.
        generation: generation_config.json, empty if there is none.
        tensors: name -> file, dtype, shape and place of every tensor.
        fingerprint: a hash of the configuration, the headers and samples of each tensor. It is
            cheap, and it changes when weights change.
    """

    path: Path
    config: dict[str, JsonValue]
    generation: dict[str, JsonValue]
    tensors: Mapping[str, TensorInfo]
    fingerprint: str

    @property
    def total_bytes(self) -> int:
        """Size of all tensors on disk, in bytes."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def num_parameters(self) -> int:
        """Number of elements in all tensors on disk."""
        return sum(info.num_elements for info in self.tensors.values())


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read the folder at `path` (`~` allowed) without its weights.

    Raises:
        CheckpointError: the folder, config.json or safetensors files are missing, or a file is
            damaged.
    """
    folder = Path(path).expanduser()
    _check_folder(folder)
    config = read_object(folder / "config.json")
    check_config(str(folder / "config.json"), config)
    generation = _read_generation(folder / "generation_config.json")
    stored = _read_tensors(folder)
    tensors = with_matrices(folder, config, stored)
    if "vision_config" not in config:
        tensors = with_model_prefix(tensors)
    _check_sizes(folder, config, tensors)
    return Checkpoint(
        path=folder,
        config=config,
        generation=generation,
        tensors=tensors,
        fingerprint=_fingerprint(config, stored),
    )


def load_tensors(
    checkpoint: Checkpoint,
    names: Iterable[str],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Load the named tensors as `dtype` on `device`; the files may change afterwards.

    Raises:
        CheckpointError: the checkpoint lacks a name, or a file cannot be read.
    """
    by_file: dict[Path, list[str]] = {}
    loaded: dict[str, Tensor] = {}
    for name in names:
        info = _info(checkpoint, name)
        if info.stored is not None:
            loaded[name] = _loaded(info.stored.read(), info, dtype, device)
        else:
            by_file.setdefault(info.file, []).append(name)
    for file, wanted in by_file.items():
        try:
            with safe_open(str(file), framework="pt", device="cpu") as opened:
                for name in wanted:
                    info = checkpoint.tensors[name]
                    tensor = opened.get_tensor(info.name)
                    check_finite(tensor, info.name, file)
                    loaded[name] = _loaded(tensor, info, dtype, device)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
    return loaded


def load_grouped(checkpoint: Checkpoint, name: str) -> Grouped | None:
    """Return the integers and scales with which the file stores a matrix; None if it has none.

    Raises:
        CheckpointError: the checkpoint lacks the name, or the file cannot be read.
    """
    info = _info(checkpoint, name)
    return None if info.stored is None or info.change is not None else info.stored.grouped()


def _info(checkpoint: Checkpoint, name: str) -> TensorInfo:
    if name not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path} has no tensor {name}")
    return checkpoint.tensors[name]


def _loaded(
    tensor: Tensor, info: TensorInfo, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    if info.change is None:
        return tensor.to(device, dtype, copy=True)
    wide = torch.promote_types(dtype, torch.float32)  # round once, after the change
    changed = info.change(tensor.to(device, wide))
    check_finite(changed, info.name, f"{info.file} with its adapter")
    return changed.to(dtype)


# -- checks of a folder ----------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        _refuse_format(folder)
        raise CheckpointError(f"{folder} is a file", hint="Give the folder that holds config.json")
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no model folder at {folder}",
            hint=f"Give the path of a folder with config.json and {SINGLE}",
        )
    if is_there(folder / "config.json"):
        return
    for file in sorted(folder.glob("*.gguf")):
        _refuse_format(file)
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds an adapter, not a model", hint="Merge it into its base model first"
        )
    raise CheckpointError(
        f"{folder} has no config.json", hint="Give the folder of a complete Hugging Face model"
    )


def _refuse_format(file: Path) -> None:
    if file.suffix == ".gguf":
        raise CheckpointError(
            f"{file} is GGUF, which is not supported",
            hint="Use the original safetensors model, with --dtype int8 for speed on the CPU",
        )
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


def _read_tensors(folder: Path) -> dict[str, TensorInfo]:
    if is_there(folder / SINGLE):
        return read_header(folder / SINGLE)
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


# -- fingerprint -----------------------------------------------------------------------------


def _fingerprint(config: Mapping[str, JsonValue], tensors: Mapping[str, TensorInfo]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    by_file: dict[Path, list[str]] = {}
    for name in sorted(tensors):
        by_file.setdefault(tensors[name].file, []).append(name)
    for file, names in by_file.items():
        with file.open("rb") as stream:
            for name in names:
                info = tensors[name]
                digest.update(f"{name} {info.dtype} {info.shape}".encode())
                for offset, length in _samples(info.nbytes):
                    stream.seek(info.offset + offset)
                    digest.update(stream.read(length))
    return digest.hexdigest()[:16]


def _samples(nbytes: int) -> list[tuple[int, int]]:
    """Return the byte ranges to hash: small tensors completely, large ones in pieces."""
    if nbytes <= _SAMPLES * _SAMPLE_BYTES:
        return [(0, nbytes)]
    last = nbytes - _SAMPLE_BYTES
    return [(last * i // (_SAMPLES - 1), _SAMPLE_BYTES) for i in range(_SAMPLES)]
