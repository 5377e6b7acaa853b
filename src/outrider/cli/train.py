"""`outrider train`: recipes that make models."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from outrider.cli import interrupt

train = typer.Typer(
    help="Train models: a family of target, qualifier and draft model.", no_args_is_help=True
)


@train.callback()
def _group() -> None:
    """Keep `family` a command of its own: a lone command would take the group's name."""


@train.command()
def family(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/tiny.toml.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets that the file names.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: the one the file names.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on where an interrupted run stopped, or refuse to."
        ),
    ] = True,
) -> None:
    """Train a target, distil two small models from it, export all three.

    Stopped by Ctrl-C and started again, it goes on from its last checkpoint.

    For example:

      outrider train family configs/tiny.toml --data data --out runs/tiny
    """
    from outrider.training.family import train_family
    from outrider.training.loop import TrainingStopped

    try:
        train_family(config, out=out, resume=resume, data=data)
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        raise typer.Exit(interrupt.EXIT_CODE) from None
