"""Leaves a caller's PyTorch model as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def restored(*models: object) -> Iterator[None]:
    """Restore the mode (training or evaluation) of every module of the models on exit.

    Objects that are not PyTorch modules are left alone.
    """
    modules = [
        (module, module.training)
        for model in models
        if isinstance(model, nn.Module)
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, training in modules:
            module.training = training
