"""Reads the header of a safetensors file without its weights.

A file is eight bytes (the header's length, little-endian), the header (JSON: name -> dtype, shape
and byte range) and the data. A check of the three lengths finds truncated downloads early.
"""

import math
from pathlib import Path
from typing import BinaryIO

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.json_file import checked_size, parse_object, unreadable
from outrider.models.checkpoints.limits import CheckpointLimits, raise_limit
from outrider.models.checkpoints.tensors import TensorInfo

_PREFIX = 8
_LFS_POINTER = b"version https://git-lfs"
_DOWNLOAD_AGAIN = "Download the file again"


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read the tensors of `file` by name. Raises `CheckpointError` if it is damaged."""
    size = checked_size(file, None)
    try:
        with file.open("rb") as stream:
            start, header = _parse(stream, file, size)
    except OSError as error:
        raise unreadable(file, error) from None
    tensors = {
        name: _info(file, name, start, entry)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    end = max((info.offset + info.nbytes for info in tensors.values()), default=start)
    if end != size:
        raise _damaged(file, f"the header gives {end} bytes, the file has {size}")
    return tensors


def _parse(stream: BinaryIO, file: Path, size: int) -> tuple[int, dict[str, JsonValue]]:
    """Return the offset of the data, and the header."""
    prefix = stream.read(len(_LFS_POINTER))
    if prefix == _LFS_POINTER:
        raise CheckpointError(
            f"{file} is a Git LFS pointer, not the weights", hint="Fetch them with: git lfs pull"
        )
    length = int.from_bytes(prefix[:_PREFIX], "little")
    start = _PREFIX + length
    if size < _PREFIX or start > size:
        raise _damaged(file, f"the header gives {start} bytes, the file has {size}")
    most = CheckpointLimits.current().header_bytes
    if length > most:
        raise CheckpointError(
            f"the header of {file} has {length:,} bytes, above the limit of {most:,}",
            hint=raise_limit("header_bytes"),
        )
    stream.seek(_PREFIX)
    return start, parse_object(stream.read(length), f"the header of {file}")


_ENTRY = (
    Field("dtype", ("text",), null=False, needed=True),
    Field("shape", ("whole number",), null=False, least=0, levels=(1,), needed=True),
    Field("data_offsets", ("whole number",), null=False, least=0, levels=(1,), needed=True),
)

_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8}
_BITS |= {"U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8}


def _info(file: Path, name: str, start: int, entry: JsonValue) -> TensorInfo:
    place, inside = f"the header of {file}", f"{name:.100}: "
    if not isinstance(entry, dict):
        raise _damaged(file, f"the header has a malformed entry {name!r:.100}")
    check_fields(place, entry, _ENTRY, inside)
    shape, offsets = tuple(entry["shape"]), entry["data_offsets"]
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(file, f"the header has malformed data_offsets of {name!r:.100}")
    first, last = offsets
    bits = _BITS.get(entry["dtype"])
    if bits is not None and math.prod(shape) * bits != 8 * (last - first):
        raise _damaged(
            file,
            f"{name!r:.100} of shape {list(shape)!r:.60} and dtype {entry['dtype']} has "
            f"{last - first} bytes",
        )
    return TensorInfo(
        file=file,
        name=name,
        dtype=entry["dtype"],
        shape=shape,
        offset=start + first,
        nbytes=last - first,
    )


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{file} is damaged or truncated: {what}", hint=_DOWNLOAD_AGAIN)
