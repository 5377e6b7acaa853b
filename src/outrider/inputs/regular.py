"""Opens regular files only: pipes and devices may never end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from outrider.core.errors import OptionError

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
_PIECE = 1 << 20


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting for the writer of a pipe.

    Raises:
        OptionError: the file is of another kind.
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):
            raise _wrong_kind(path, "a socket") from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise _wrong_kind(path, _KINDS.get(stat.S_IFMT(mode), "of another kind"))
    return os.fdopen(handle, "rb")


def read_at_most(stream: BinaryIO, limit: int) -> bytes | None:
    """Read a stream to its end; None if it has more than `limit` bytes.

    At most `limit` bytes and one are read.
    """
    parts: list[bytes] = []
    left = limit + 1
    while left and (part := stream.read(min(left, _PIECE))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts) if left else None


def _wrong_kind(path: Path, kind: str) -> OptionError:
    return OptionError(
        f"{path} is {kind}, not a regular file", hint="Copy its content to a file, or pipe it in"
    )
