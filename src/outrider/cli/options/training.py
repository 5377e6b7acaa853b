"""What the commands of `outrider train` share."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.ui import interrupt

DataFolder = Annotated[
    Path | None, typer.Option(help="Folder of the data sets that the file lists.")
]
RunFolder = Annotated[
    Path | None, typer.Option(help="Folder of the run; default: the one in the file.")
]


def say(line: str) -> None:
    """Report progress on standard error."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def stoppable() -> Iterator[None]:
    """Context manager: a signal ends training with a checkpoint, a message, and its exit code."""
    from outrider.training.core.loop import TrainingStopped

    try:
        yield
    except TrainingStopped as stopped:
        say(str(stopped))
        raise typer.Exit(interrupt.exit_code(stopped.number)) from None
