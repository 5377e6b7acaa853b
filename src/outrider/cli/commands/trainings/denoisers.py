"""Commands of `outrider train` for masked denoisers."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.options.training import DataFolder, RunFolder, say, stoppable


def denoiser(
    config: Annotated[
        Path, typer.Argument(help="A TOML file, such as configs/denoiser/tiny.toml.")
    ],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a masked denoiser from the weights of an autoregressive model.

    Answers are masked at random, and the model predicts them from the whole text.
    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train denoiser configs/denoiser/tiny.toml --data data --out runs/denoiser
    """
    from outrider.training.denoiser.train import train_denoiser

    with stoppable():
        train_denoiser(config, data=data, out=out, report=say)


def unmasking(
    config: Annotated[
        Path, typer.Argument(help="A TOML file, such as configs/unmasking/tiny.toml.")
    ],
    out: RunFolder = None,
) -> None:
    """Train an unmasking filter (Learn2PD): which predictions of a masked denoiser are final.

    The denoiser answers generated tasks, and writes each answer again with all predictions that
    equal it. The filter learns from the confidences of a block which predictions these are.

    For example:

      outrider train unmasking configs/unmasking/tiny.toml --out runs/unmasking
    """
    from outrider.training.unmasking.train import train_unmasking

    with stoppable():
        train_unmasking(config, out=out, report=say)
