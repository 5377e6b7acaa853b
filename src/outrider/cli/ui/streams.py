"""Standard streams of the process that may be closed, or lead to a full disk."""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OUTPUT = "standard output"
"""Name of the file in errors of standard output."""


class _Output(io.FileIO):
    """Standard output; its errors name it.

    Attributes:
        open: whether it was open when the process started.
        discards: whether all that is written is dropped, without an error.
    """

    open = True
    discards = False

    def write(self, data: "ReadableBuffer", /) -> int | None:
        if self.discards:
            return memoryview(data).nbytes
        try:
            if not self.open:
                raise OSError(errno.EBADF, "it is closed")
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT
            raise


class _Notes(io.FileIO):
    """Standard error; what cannot be written is dropped, since nobody can be told."""

    def write(self, data: "ReadableBuffer", /) -> int | None:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def prepare() -> None:
    """Replace the streams of the process. Closed descriptors become the null device, so that no
    other file takes their numbers."""
    closed = sys.stdout is None
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if os.name != "posix":  # a console of Windows is not written through descriptors
        return
    output, notes = _Output(1, "w", closefd=False), _Notes(2, "w", closefd=False)
    output.open = not closed
    notes_closed = sys.stderr is None
    sys.stdout = _text(output, sys.stdout)
    if notes_closed:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    else:
        sys.stderr = _text(notes, sys.stderr)


def discard_output() -> None:
    """Drop what standard output still holds, so that nothing is raised at exit."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Output):
        raw.discards = True
        return
    with suppress(OSError, AttributeError):  # a stream of a test has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _text(raw: io.FileIO, like: TextIO | None) -> TextIO:
    """Return a text stream with the settings of `like`."""
    known = like if isinstance(like, io.TextIOWrapper) else None
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=known.encoding if known else "utf-8",
        errors="replace",
        newline="\n",
        line_buffering=known.line_buffering if known else False,
        write_through=known.write_through if known else False,
    )
