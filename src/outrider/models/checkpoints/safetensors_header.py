"""Reads the header of a safetensors file without its weights.

A file is eight bytes (the header's length, little-endian), the header (JSON: name -> dtype, shape
and byte range) and the data. A check of the three lengths finds truncated downloads early.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from outrider.core.errors import CheckpointError

_PREFIX = 8
_LARGEST_HEADER = 100_000_000
_LFS_POINTER = b"version https://git-lfs"
_DOWNLOAD_AGAIN = "Download the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """The location of one tensor.

    Attributes:
        file: the safetensors file that holds it.
        name: its name in the file; a checkpoint may use another name.
        dtype: the dtype as written in the header, such as `BF16`.
        shape: its shape.
        offset: its first byte, counted from the start of the file.
        nbytes: its length in bytes.
        change: a function applied when it is loaded, in float32 or float64; None for no change.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    change: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)

    @property
    def num_elements(self) -> int:
        """Number of elements of the tensor."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read the tensors of `file` by name. Raises `CheckpointError` if it is damaged."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start, header = _parse(stream, file, size)
    try:
        tensors = {
            name: _info(file, name, start, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (KeyError, TypeError, ValueError):
        raise _damaged(file, "the header has a malformed entry") from None
    end = max((info.offset + info.nbytes for info in tensors.values()), default=start)
    if end != size:
        raise _damaged(file, f"the header gives {end} bytes, the file has {size}")
    return tensors


def _parse(stream: BinaryIO, file: Path, size: int) -> tuple[int, dict[str, Any]]:
    """Return the offset of the data, and the header."""
    prefix = stream.read(len(_LFS_POINTER))
    if prefix == _LFS_POINTER:
        raise CheckpointError(
            f"{file} is a Git LFS pointer, not the weights", hint="Fetch them with: git lfs pull"
        )
    length = int.from_bytes(prefix[:_PREFIX], "little")
    start = _PREFIX + length
    if size < _PREFIX or start > size or length > _LARGEST_HEADER:
        raise _damaged(file, f"the header gives {start} bytes, the file has {size}")
    stream.seek(_PREFIX)
    try:
        header = json.loads(stream.read(length))
    except ValueError:
        raise _damaged(file, "the header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(file, "the header is not a JSON object")
    return start, header


def _info(file: Path, name: str, start: int, entry: dict[str, Any]) -> TensorInfo:
    first, last = entry["data_offsets"]
    if not 0 <= first <= last:
        raise ValueError
    return TensorInfo(
        file=file,
        name=name,
        dtype=str(entry["dtype"]),
        shape=tuple(int(axis) for axis in entry["shape"]),
        offset=start + first,
        nbytes=last - first,
    )


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{file} is damaged or truncated: {what}", hint=_DOWNLOAD_AGAIN)
