"""Leaves a caller's PyTorch models as they were, and lets one call at a time use them."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock, RLock
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, AbstractContextManager[bool]] = WeakKeyDictionary()
_GUARD = Lock()


@contextmanager
def restored(*given: object) -> Iterator[None]:
    """Restore the mode (training or evaluation) of every module of the models on exit.

    While a model is checked, its configuration is changed for a moment. Therefore other threads
    wait until the call that uses the model has ended.

    Args:
        *given: models, or lists of models; objects that are not PyTorch modules are left alone.
    """
    models = sorted({id(m): m for m in _modules(given)}.items())
    with ExitStack() as locks:
        for _, model in models:
            locks.enter_context(_lock(model))
        modes = [(module, module.training) for _, model in models for module in model.modules()]
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _modules(given: Iterable[object]) -> Iterator[nn.Module]:
    for one in given:
        if isinstance(one, nn.Module):
            yield one
        elif isinstance(one, list | tuple):
            yield from _modules(one)


def _lock(model: nn.Module) -> AbstractContextManager[bool]:
    with _GUARD:
        return _LOCKS.setdefault(model, RLock())
