"""H2O: recent rows, and those that got the most attention so far."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.types import BoolArray, IntArray
from outrider.models.caches.eviction.policy import (
    Choice,
    Eviction,
    KvPolicy,
    Shape,
    View,
    with_planes,
)
from outrider.models.caches.eviction.record import KvMethod
from outrider.models.caches.eviction.weights import best, received
from outrider.protocols.method import Paper

_SHARE = Range(0, 1, hint="Give the share of the budget for recent rows, such as 0.5")
_COUNT = Range(1, whole=True, hint="Give a number of queries, such as 128")


@dataclass(frozen=True, kw_only=True)
class H2O(KvPolicy):
    """Keeps recent rows and heavy hitters: rows with the most attention of the queries so far.

    The attention of a row is divided by the number of queries that could see it, so that age is no
    merit. Not every query is weighed: a sample of the prompt, and some of the answer.

    Attributes:
        recent: share of the budget for the most recent rows.
        samples: the most queries of a prompt that are weighed, evenly spaced.
        each: of the answer, one query of this many tokens is weighed.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = "h2o"

    budget: float = 0.2
    recent: float = 0.5
    samples: int = 128
    each: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _SHARE.check("recent", self.recent)
        _COUNT.check("samples", self.samples)
        _COUNT.check("each", self.each)

    def begin(self, shape: Shape) -> Eviction:
        """Return the policy for one text."""
        return HeavyHitters(self, shape)


class HeavyHitters(Eviction):
    """`H2O` for one text.

    Attributes:
        sums: for each plane, the attention that each row it holds got.
        seen: for each plane, the number of queries that could see it.
    """

    def __init__(self, policy: H2O, shape: Shape) -> None:
        self._policy = policy
        empty = torch.zeros(0)
        self.sums: list[Tensor] = [empty] * shape.planes
        self.seen: list[Tensor] = [empty] * shape.planes

    @property
    def nbytes(self) -> int:
        """Bytes of sums and counts."""
        return sum(part.nbytes for part in (*self.sums, *self.seen))

    def asks(self, rows: IntArray, prompt: int) -> BoolArray | None:
        """Ask for a sample of the prompt, and for some rows of the answer."""
        policy = self._policy
        step = max(-(-prompt // policy.samples), 1)
        return np.where(rows < prompt, rows % step == step - 1, rows % policy.each == 0)

    def choose(self, view: View) -> Choice | None:
        """Add the attention of new queries; keep heavy hitters and recent rows."""
        budget = self._policy.budget_of(view.rows)
        chosen: list[IntArray | None] = []
        for layer in range(view.shape.num_layers):
            if not view.shape.reads_all[layer]:
                chosen += [None] * view.shape.num_kv_heads
                continue
            self._weigh(view, layer)
            chosen += [self._keep(view, plane, budget) for plane in view.shape.of_layer(layer)]
        return with_planes(view, chosen)

    def _weigh(self, view: View, layer: int) -> None:
        shape, asked, queries = view.shape, view.asked, view.queries(layer)
        grouped = queries.unflatten(1, (shape.num_kv_heads, shape.group))
        for head, (plane, keys) in enumerate(
            zip(shape.of_layer(layer), view.keys(layer), strict=True)
        ):
            rows = view.kept(plane)
            new = len(rows) - len(self.sums[plane])
            got = received(grouped[:, head], keys, asked, rows, cap=shape.cap).sum(dim=0).to("cpu")
            could = torch.from_numpy((asked[:, None] >= rows[None]).sum(axis=0))
            self.sums[plane] = torch.cat((self.sums[plane].to(got), got.new_zeros(new))) + got
            self.seen[plane] = torch.cat((self.seen[plane].to(got), got.new_zeros(new))) + could

    def _keep(self, view: View, plane: int, budget: int) -> IntArray | None:
        rows = view.kept(plane)
        if budget >= len(rows):
            return None
        recent = min(max(round(self._policy.recent * budget), 1), budget)
        old = len(rows) - recent
        merit = self.sums[plane][:old] / self.seen[plane][:old].clamp(min=1)
        kept = torch.cat((best(merit, budget - recent), torch.arange(old, len(rows))))
        self.sums[plane], self.seen[plane] = self.sums[plane][kept], self.seen[plane][kept]
        return rows[kept.numpy()]

    def copy(self) -> "HeavyHitters":
        """Return an independent copy; tensors are not written in place."""
        twin = object.__new__(HeavyHitters)
        twin._policy, twin.sums, twin.seen = self._policy, list(self.sums), list(self.seen)
        return twin


METHOD = KvMethod(
    name="h2o",
    cls=H2O,
    summary="Keeps recent rows, and rows that got the most attention so far",
    paper=Paper("H2O: Heavy-Hitter Oracle for Efficient Generative Inference", "2306.14048"),
    memory="budget rows of each head",
)
