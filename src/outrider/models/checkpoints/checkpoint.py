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
from outrider.models.checkpoints.safetensors_header import TensorInfo, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
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
    config = _read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    tensors = _read_tensors(folder)
    return Checkpoint(
        path=folder,
        config=config,
        generation=_read_json(generation) if generation.is_file() else {},
        tensors=tensors,
        fingerprint=_fingerprint(config, tensors),
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
    for name in names:
        if name not in checkpoint.tensors:
            raise CheckpointError(f"{checkpoint.path} has no tensor {name}")
        by_file.setdefault(checkpoint.tensors[name].file, []).append(name)
    loaded: dict[str, Tensor] = {}
    for file, wanted in by_file.items():
        try:
            with safe_open(str(file), framework="pt", device="cpu") as opened:
                for name in wanted:
                    info = checkpoint.tensors[name]
                    loaded[name] = _loaded(opened.get_tensor(info.name), info, dtype, device)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
    return loaded


def _loaded(
    tensor: Tensor, info: TensorInfo, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    if info.change is None:
        return tensor.to(device, dtype, copy=True)
    wide = torch.promote_types(dtype, torch.float32)  # round once, after the change
    return info.change(tensor.to(device, wide)).to(dtype)


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
    if (folder / "config.json").is_file():
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


def _read_json(file: Path) -> dict[str, JsonValue]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, not an object")
    return content


def _read_tensors(folder: Path) -> dict[str, TensorInfo]:
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    for file in sorted(folder.iterdir()):
        _refuse_format(file)
    raise CheckpointError(f"{folder} has no weights: expected {SINGLE} or {INDEX}")


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX} has no weight_map")
    headers: dict[str, dict[str, TensorInfo]] = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        file = folder / shard
        if file.name != shard or not file.is_file():
            raise CheckpointError(
                f"{INDEX} lists {shard}, which is not in {folder}", hint="Download it again"
            )
        headers[shard] = read_header(file)
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise CheckpointError(f"{INDEX} lists {name} in {shard}, which does not hold it")
    return {name: headers[shard][name] for name, shard in weight_map.items()}


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
