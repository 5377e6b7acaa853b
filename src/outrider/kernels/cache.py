"""The folder of compiled kernels and measurements: files that only their owner can change."""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheLimits:
    """Limits on what is read from the cache.

    Attributes:
        file_bytes: largest size of a file in bytes; a library of kernels has about 0.1 MB.
    """

    file_bytes: int = 64 << 20


LIMITS = CacheLimits()


class KernelWarning(UserWarning):
    """A file in the cache cannot be used. The message is one line."""


class CacheError(OSError):
    """A folder or a file of the cache cannot be trusted; the message is one line."""


def cache_folder() -> Path:
    """Where compiled kernels and measurements of this machine are kept.

    `OUTRIDER_CACHE` names another folder than the user's cache.

    Raises:
        CacheError: the user has no home folder.
    """
    try:
        if chosen := os.environ.get("OUTRIDER_CACHE"):
            return Path(chosen).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "outrider"
    except RuntimeError as error:
        raise CacheError(f"{error}; name a cache folder with OUTRIDER_CACHE") from None


def private_folder(name: str) -> Path:
    """Return the subfolder `name` of the cache, which only its owner can write to.

    It is created if it is missing. If it is the user's own and others can write to it, this is
    corrected; files that others have left there are refused by `read_private`.

    Raises:
        OSError: it cannot be created.
        CacheError: it belongs to another user, or others can write to it.
    """
    folder = cache_folder() / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    found = os.stat(folder)
    if _foreign(found):
        raise CacheError(f"{folder} belongs to another user; name a folder with OUTRIDER_CACHE")
    if os.name == "posix" and found.st_mode & _OTHERS:
        try:
            folder.chmod(0o700)
        except OSError:
            raise CacheError(
                f"others can write to {folder}; name a folder with OUTRIDER_CACHE"
            ) from None
    return folder


def read_private(file: Path) -> bytes:
    """Return the content of a regular file that only the user, or root, can change.

    Raises:
        OSError: it is missing, or cannot be read.
        CacheError: it is not such a file, or has more than `CacheLimits.file_bytes` bytes.
    """
    # Neither a symbolic link nor a pipe is opened.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(file, os.O_RDONLY | flags)
    with open(number, "rb") as opened:
        found = os.fstat(number)
        shared = os.name == "posix" and found.st_mode & _OTHERS
        if not stat.S_ISREG(found.st_mode) or shared or _foreign(found):
            raise CacheError(f"{file} is not a file that only you can change")
        if found.st_size > LIMITS.file_bytes:
            raise CacheError(f"{file} has {found.st_size} bytes, more than {LIMITS.file_bytes}")
        return opened.read(LIMITS.file_bytes)


def write_private(file: Path, content: bytes) -> None:
    """Write a file in one step: another process sees the old content or the new one.

    Raises:
        OSError: it cannot be written. In this case nothing changes.
    """
    number, draft = tempfile.mkstemp(dir=file.parent)  # has mode 0600
    try:
        with open(number, "wb") as opened:
            opened.write(content)
        os.replace(draft, file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _foreign(found: os.stat_result) -> bool:
    """Whether another user than this one or root owns a file."""
    return hasattr(os, "geteuid") and found.st_uid not in (os.geteuid(), 0)
