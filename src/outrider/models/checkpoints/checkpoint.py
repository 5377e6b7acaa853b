"""A checkpoint: its description without the weights, and loading of its tensors."""

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
from outrider.models.checkpoints.tensors import TensorInfo, check_finite
from outrider.models.quantization.grouped import Grouped
from outrider.models.quantization.stored_blocks import Blocks

_SAMPLES = 16
_SAMPLE_BYTES = 64


class UnsupportedCheckpointError(CheckpointError):
    """A valid checkpoint that this runner does not support; another runner may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model folder, described without its weights.

    Attributes:
        path: the folder, or the GGUF file.
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


def load_grouped(checkpoint: Checkpoint, name: str) -> Grouped | Blocks | None:
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


# -- fingerprint -----------------------------------------------------------------------------


def fingerprint_of(config: Mapping[str, JsonValue], tensors: Mapping[str, TensorInfo]) -> str:
    """Hash the configuration, names, types and shapes of tensors, and samples of their data."""
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
