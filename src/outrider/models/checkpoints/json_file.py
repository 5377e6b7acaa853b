"""Reads JSON files of a checkpoint: regular files of a limited size and a limited depth."""

import json
import stat
from pathlib import Path

import numpy as np

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.limits import CheckpointLimits, raise_limit

_QUOTE = ord('"')
_LFS_POINTER = b"version https://git-lfs"
_BOM = b"\xef\xbb\xbf"


def is_there(file: Path) -> bool:
    """Whether there is something at `file`, of any kind; a broken link counts."""
    try:
        file.lstat()
    except (OSError, ValueError):  # missing, or a name that no file can have
        return False
    return True


def checked_size(file: Path, limit: str | None) -> int:
    """Return the size of a file in bytes without opening it.

    Args:
        file: the file.
        limit: name of the limit on its bytes; None for none.

    Raises:
        CheckpointError: it cannot be read, is no regular file, or is too large.
    """
    try:
        found = file.stat()
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise CheckpointError(f"{file} is {kind}", hint="Download the checkpoint again")
    if limit is None:
        return found.st_size
    most: int = getattr(CheckpointLimits.current(), limit)
    if found.st_size > most:
        raise CheckpointError(
            f"{file} has {found.st_size:,} bytes, above the limit of {most:,}",
            hint=raise_limit(limit),
        )
    return found.st_size


def read_bytes(file: Path, limit: str) -> bytes:
    """Read a file of a limited size. Raises the errors of `checked_size`."""
    checked_size(file, limit)
    try:
        return file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from None


def read_object(file: Path, limit: str = "config_bytes") -> dict[str, JsonValue]:
    """Read a JSON object. Raises the errors of `checked_size` and `parse_object`."""
    return parse_object(read_bytes(file, limit), str(file))


def check_depth(data: bytes, name: str) -> None:
    """Check how deeply lists and objects nest, without parsing.

    Args:
        data: JSON, or bytes that claim to be.
        name: the file in error messages.

    Raises:
        CheckpointError: they nest deeper than the limit.
    """
    most = CheckpointLimits.current().json_depth
    if data.count(b"[") + data.count(b"{") <= most:
        return
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # now every quote opens or closes
    symbols = np.frombuffer(plain, dtype=np.uint8)
    inside = np.bitwise_xor.accumulate((symbols == _QUOTE).view(np.uint8)).view(bool)
    symbols = symbols[~inside]
    folded = symbols | 0x20  # maps [ to {, and ] to }
    steps = (folded == ord("{")).view(np.int8) - (folded == ord("}")).view(np.int8)
    deepest = int(steps[steps != 0].cumsum(dtype=np.int64).max(initial=0))
    if deepest > most:
        raise CheckpointError(
            f"{name} nests {deepest} levels deep, above the limit of {most}",
            hint=raise_limit("json_depth"),
        )


def parse_object(data: bytes, name: str) -> dict[str, JsonValue]:
    """Parse a JSON object of limited depth.

    Args:
        data: the content of the file.
        name: the file in error messages.

    Raises:
        CheckpointError: it is not UTF-8 or not JSON, nests too deeply, holds NaN, or is no object.
    """
    if data.startswith(_LFS_POINTER):
        raise CheckpointError(f"{name} is a Git LFS pointer", hint="Fetch it with: git lfs pull")
    if data.startswith(_BOM):
        raise CheckpointError(
            f"{name} is not JSON: it begins with a byte order mark",
            hint="Save it as UTF-8 without this mark",
        )
    check_depth(data, name)
    try:
        content = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} is not UTF-8: byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} holds a {type(content).__name__}, not an object")
    if b"NaN" in data and (path := _path_of_nan(content)):  # infinite values are in real files
        raise CheckpointError(f"{name} has {path} NaN, expected a value", hint="Correct the file")
    return content


def _path_of_nan(value: JsonValue, path: str = "") -> str | None:
    """Return the keys that lead to the first NaN; None if there is none."""
    if isinstance(value, float):
        return path if value != value else None
    if not isinstance(value, dict | list):
        return None
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = (
        _path_of_nan(one, f"{path}.{key!s:.60}" if path else f"{key!s:.60}") for key, one in inner
    )
    return next(filter(None, found), None)


def unreadable(file: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that the system does not open."""
    reason = getattr(error, "strerror", None) or str(error)
    return CheckpointError(f"{str(file)!r:.300} cannot be read: {reason}")
