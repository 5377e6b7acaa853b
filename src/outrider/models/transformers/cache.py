"""The cache of `TransformersModel`: a `DynamicCache` with the bookkeeping of `CacheBook`."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from outrider.models.caches.bookkeeping import CacheBook, Run
from outrider.models.caches.borrowed import Borrowed


class TransformersCache(CacheBook):
    """Keys and values of plain full layers, one row a slot, also for sliding windows.

    Tensors are never written in place, so forks share them. `owner` is the model that fills them.
    """

    def __init__(self, context_length: int, owner: object) -> None:
        super().__init__(context_length)
        self.owner = owner
        self.storage = DynamicCache()
        self._aside: dict[Run, list[tuple[Tensor, Tensor]]] = {}

    @property
    def nbytes(self) -> int:
        """Size of all keys and values in bytes."""
        return sum(t.numel() * t.element_size() for x in self._layers for t in (x.keys, x.values))

    @property
    def _layers(self) -> list[Any]:
        layers: list[Any] = self.storage.layers
        return [layer for layer in layers if layer.is_initialized]

    def cut(self, length: int) -> None:
        """Drop the rows from slot `length` on, which are stale."""
        for layer in self._layers:
            layer.keys = layer.keys[..., :length, :]
            layer.values = layer.values[..., :length, :]

    def _move(self, slots: list[int], start: int) -> None:
        kept = torch.tensor([*range(start), *slots])
        for layer in self._layers:
            index = kept.to(layer.keys.device)
            layer.keys = layer.keys.index_select(-2, index)
            layer.values = layer.values.index_select(-2, index)

    def _lay_out(self, kept: Sequence[Run], slots: int) -> None:
        """Cut the tensors and set aside copies of rows that belong further back.

        These tensors grow only at their end. Rows are copied layer by layer to limit memory.
        """
        self._aside = {run: [] for run in kept if not run.is_front}
        front = kept[0].stop if kept and kept[0].is_front else 0
        for layer in self._layers:
            for run, pairs in self._aside.items():
                slots_kept = slice(run.source, run.source + len(run))
                both = (layer.keys, layer.values)
                pairs.append(tuple(t[..., slots_kept, :].clone() for t in both))
            layer.keys = layer.keys[..., :front, :].clone()
            layer.values = layer.values[..., :front, :].clone()

    def _stand(self, run: Run) -> None:
        for layer, (keys, values) in zip(self._layers, self._aside.pop(run), strict=True):
            layer.keys = torch.cat((layer.keys, keys), dim=-2)
            layer.values = torch.cat((layer.values, values), dim=-2)

    def adopt(self, other: "TransformersCache") -> None:
        """Share the tensors of `other`."""
        self.storage.layers = [copy.copy(layer) for layer in other.storage.layers]

    def _share(self) -> "TransformersCache":
        twin = TransformersCache(self.context_length, self.owner)
        twin.adopt(self)
        return twin


class BorrowedTransformersCache(Borrowed, TransformersCache):
    """A cache borrowed from a `TransformersCache`: it holds tensors only between two commits."""

    def __init__(self, lender: TransformersCache) -> None:
        self.owner = lender.owner
        self.storage = DynamicCache()
        self._adopted = False
        self._from = lender
        Borrowed.__init__(self, lender)

    def cut(self, length: int) -> None:
        """Drop the rows from slot `length` on; first in a round, share the owner's tensors."""
        if not self._adopted:
            self.adopt(self._from)
            self._adopted = True
        super().cut(length)

    def _forget_round(self) -> None:
        super()._forget_round()
        self.storage, self._adopted = DynamicCache(), False
