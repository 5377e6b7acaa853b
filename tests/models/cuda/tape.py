"""A runner that holds work to what a captured graph needs, on the CPU.

A graph replays the same kernels on the same addresses. So the first run of a piece of work is
written down, operator by operator: names, shapes, and where the tensors lie that it did not make
itself. Every replay must do exactly the same. Operators that would ask the device for a value, or
make a shape out of one, or bring a constant from the host, are refused: capturing fails there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "is_nonzero",
    "item",
    "lift_fresh",
)

INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")

Line = tuple[str, tuple[Any, ...]]


class Tape(TorchDispatchMode):
    """Writes down every operator that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Line] = []
        self._made: dict[int, Tensor] = {}  # kept, lest an address be used twice

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING or (name in INDEXING and _has_mask(args[1])):
            raise AssertionError(f"{name} waits for the device")
        inputs = [self._describe(leaf) for leaf in tree_leaves((args, kwargs or {}))]
        self.lines.append((name, tuple(inputs)))
        out = func(*args, **(kwargs or {}))
        given = {_address(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and _address(leaf) not in given:
                self._made[_address(leaf)] = leaf
        return out

    def _describe(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        inside = _address(leaf) in self._made
        place = "inside" if inside else (_address(leaf), leaf.storage_offset())
        return (place, tuple(leaf.shape), tuple(leaf.stride()), leaf.dtype)


def _has_mask(indices: Any) -> bool:
    return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in tree_leaves(indices))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class TapeRunner:
    """Runs work twice when it is prepared, as a warm-up would, and then by the tape."""

    def __init__(self) -> None:
        self.tapes: list[list[Line]] = []
        self.replays: list[int] = []

    def prepare(self, work: Callable[[], None]) -> Callable[[], None]:
        with torch.inference_mode():
            work()
            first = self._run(work)
        number = len(self.tapes)
        self.tapes.append(first)

        def replay() -> None:
            lines = self._run(work)
            for expected, found in zip(first, lines, strict=True):
                assert found == expected, f"{found} is not {expected}"
            self.replays.append(number)

        return replay

    @staticmethod
    def _run(work: Callable[[], None]) -> list[Line]:
        tape = Tape()
        with torch.inference_mode(), tape:
            work()
        return tape.lines
