"""Threads of PyTorch, and what a forked process does differently: it has none of its parent's
threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from weakref import WeakSet

import torch

_exclusives: "WeakSet[Exclusive]" = WeakSet()
_forked = False


class Exclusive:
    """A lock that is open in a forked child, even if a thread that the child lacks held it.

    Attributes:
        held: the lock, for `with exclusive.held:`. It is one of C, since Ctrl-C between two lines
            of an `__exit__` in Python would leave a lock closed for ever.
    """

    def __init__(self) -> None:
        self.held = RLock()
        _exclusives.add(self)

    def renew(self) -> None:
        """Open the lock, whoever holds it."""
        self.held = RLock()


def use_torch_threads(count: int) -> None:
    """Set the number of PyTorch threads; in a forked child it is always 1.

    PyTorch would wait there for OpenMP threads of its parent, for ever. The compiled runner has
    its own threads, which a child creates anew.
    """
    torch.set_num_threads(1 if _forked else count)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let PyTorch use one thread inside the block; for operations on a few rows of scores.

    More threads gain nothing there, and they wait for processors that the threads of the compiled
    runner, or other programs, are using: a choice took up to 140 ms on a busy machine.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_child() -> None:
    global _forked
    _forked = True
    use_torch_threads(1)
    for exclusive in list(_exclusives):
        exclusive.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
