"""What a process that was forked does differently: it has none of its parent's threads."""

import os
from threading import Lock
from types import TracebackType
from weakref import WeakSet

import torch

_exclusives: "WeakSet[Exclusive]" = WeakSet()
_forked = False


class Exclusive:
    """A lock, as a context manager. In a forked child it is open, even if a thread that the child
    lacks held it."""

    def __init__(self) -> None:
        self._lock = Lock()
        _exclusives.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Open the lock, whoever holds it."""
        self._lock = Lock()


def use_torch_threads(count: int) -> None:
    """Set the number of PyTorch threads; in a forked child it is always 1.

    PyTorch would wait there for OpenMP threads of its parent, for ever. The compiled runner has
    its own threads, which a child creates anew.
    """
    torch.set_num_threads(1 if _forked else count)


def _in_child() -> None:
    global _forked
    _forked = True
    use_torch_threads(1)
    for exclusive in list(_exclusives):
        exclusive.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
