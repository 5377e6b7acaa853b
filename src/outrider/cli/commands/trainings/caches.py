"""Commands of `outrider train` for what lies in caches, or beside them."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.options.training import DataFolder, RunFolder, say, stoppable


def bottleneck(
    config: Annotated[
        Path, typer.Argument(help="A TOML file, such as configs/bottleneck/tiny.toml.")
    ],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a memory of labels on hidden states (Discrete Key-Value Bottleneck), task by task.

    Keys are made from texts without labels and then frozen; only the values of fetched keys are
    learned, so that later tasks change less of the earlier ones.

    For example:

      outrider train bottleneck configs/bottleneck/tiny.toml --data data --out runs/bottleneck
    """
    from outrider.training.bottleneck.train import train_bottleneck

    with stoppable():
        train_bottleneck(config, data=data, out=out, report=say)


def gates(
    config: Annotated[Path, typer.Argument(help="A TOML file, such as configs/gates/tiny.toml.")],
    out: RunFolder = None,
) -> None:
    """Train gates: which KV heads of a target need the whole text (RLKV and DuoAttention).

    The target answers problems that it solves; heads whose answers stay right without the whole
    text get low gates. The target itself stays as it is.
    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train gates configs/gates/tiny.toml --out runs/gates
    """
    from outrider.training.gates.train import train_gates

    with stoppable():
        train_gates(config, out=out, report=say)


def coprocessor(
    config: Annotated[
        Path, typer.Argument(help="A TOML file, such as configs/coprocessor/tiny.toml.")
    ],
    data: DataFolder = None,
    out: RunFolder = None,
) -> None:
    """Train a coprocessor: an adapter and soft tokens that write latents behind a prompt.

    The latents lie in the cache of the frozen target and are trained to lower the loss of its next
    tokens. With them, the target writes other texts than without.
    Stopped by Ctrl-C and started again, it continues from its last checkpoint.

    For example:

      outrider train coprocessor configs/coprocessor/tiny.toml --data data --out runs/latents
      outrider generate "Hello" --coprocessor runs/latents/tiny-coprocessor
    """
    from outrider.training.coprocessor.train import train_coprocessor

    with stoppable():
        train_coprocessor(config, data=data, out=out, report=say)
