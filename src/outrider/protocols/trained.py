"""The files of a small trained part that a rule or a policy reads.

A folder holds `KIND.json`, which says what the part is, and `KIND.safetensors`, its weights.
"""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue

_MOST_FACTS, _MOST_WEIGHTS = 1 << 20, 1 << 30
"""Limits on the bytes of the two files."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedFiles:
    """What a folder holds.

    Attributes:
        folder: the folder.
        kind: the kind of the part, which is also the name of its files.
        facts: the values of the JSON file.
        tensors: the weights, in float32.
    """

    folder: Path
    kind: str
    facts: Mapping[str, JsonValue]
    tensors: Mapping[str, Tensor]

    def number(self, name: str) -> float:
        """Return a number of the JSON file. Raises `CheckpointError` if it holds none."""
        found = self.facts.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self.damaged(f"{name} is {found!r:.60}, and a number is expected")
        return float(found)

    def ids(self, name: str) -> frozenset[int]:
        """Return token ids of the JSON file. Raises `CheckpointError` if it holds none."""
        found = self.facts.get(name)
        if not isinstance(found, list) or not all(type(i) is int and i >= 0 for i in found):
            raise self.damaged(f"{name} is {found!r:.60}, and a list of token ids is expected")
        return frozenset(found)

    def tensor(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of this shape, where -1 is any positive size.

        Raises:
            CheckpointError: it is missing, has another shape, or holds numbers that are not finite.
        """
        found = self.tensors.get(name)
        if found is None:
            raise self.damaged(f"there is no tensor {name!r}")
        fits = found.dim() == len(shape) and all(
            own == size or (size < 0 and own > 0)
            for own, size in zip(found.shape, shape, strict=True)
        )
        if not fits:
            raise self.damaged(f"tensor {name!r} has shape {list(found.shape)}")
        if not bool(found.isfinite().all()):
            raise self.damaged(f"tensor {name!r} holds numbers that are not finite")
        return found

    def damaged(self, problem: str) -> CheckpointError:
        """Return the error for a fault of the files."""
        return CheckpointError(
            f"the files of kind {self.kind!r} in {self.folder} cannot be used: {problem}",
            hint=f"Give a folder that `outrider train {self.kind}` has written",
        )


def read_trained(folder: str | Path, kind: str, version: str) -> TrainedFiles:
    """Read the part of this kind in `folder` (`~` allowed).

    Args:
        folder: the folder.
        kind: the kind of the part.
        version: the value that `format` must have in the JSON file.

    Raises:
        CheckpointError: files that are missing, too large or damaged, or another format.
    """
    place = Path(folder).expanduser()
    empty = TrainedFiles(place, kind, {}, {})
    for name, most in ((f"{kind}.json", _MOST_FACTS), (f"{kind}.safetensors", _MOST_WEIGHTS)):
        _check_file(place / name, most, empty)
    try:
        facts = json.loads((place / f"{kind}.json").read_bytes())
        tensors = load_file(place / f"{kind}.safetensors")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise empty.damaged(f"{error:.100}" if isinstance(error, OSError) else "damaged") from None
    if not isinstance(facts, dict) or facts.get("format") != version:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise empty.damaged(f"its format is {found!r:.60}, and {version!r} is expected")
    return TrainedFiles(place, kind, facts, {name: t.float() for name, t in tensors.items()})


def _check_file(file: Path, most: int, empty: TrainedFiles) -> None:
    try:
        found = file.stat()
    except (OSError, ValueError):
        raise empty.damaged(f"there is no {file.name}") from None
    if not stat.S_ISREG(found.st_mode):
        raise empty.damaged(f"{file.name} is no regular file")
    if found.st_size > most:
        raise empty.damaged(f"{file.name} has {found.st_size:,} bytes, above {most:,}")


def float64(tensor: Tensor) -> Tensor:
    """Return the tensor in float64 on the CPU, where decisions are computed."""
    return tensor.detach().to("cpu", torch.float64)
