"""Commands of `outrider train` for models that draw images."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.options.training import DataFolder, RunFolder, say, stoppable


def patches(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/patches/tiny.toml.")],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a model that draws images patch by patch, and a draft model of it.

    Each patch is a vector of real numbers, which a diffusion head draws (as in MAR).
    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train patches configs/patches/tiny.toml --data data --out runs/patches
      outrider draw runs/patches/tiny-patches/target --out picture.png
    """
    from outrider.training.patches.train import train_patches

    with stoppable():
        train_patches(config, data=data, out=out, report=say)
