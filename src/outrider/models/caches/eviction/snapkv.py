"""SnapKV: the rows of a prompt that its last tokens attend to."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from outrider.core.checks import Range
from outrider.core.errors import OptionError
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

_WINDOW = Range(1, whole=True, hint="Give the last tokens of the prompt that vote, such as 32")


@dataclass(frozen=True, kw_only=True)
class SnapKV(KvPolicy):
    """Compresses a prompt once: each head keeps the rows that the last tokens attend to, and their
    neighbours. Rows of the answer are never dropped.

    The paper pools over 5 rows, or 7 for long texts. Here the default is the largest of 15: a
    number of seven digits is seven rows, and all of them have to stay (`docs/results.md`).

    Attributes:
        window: the last tokens of the prompt, whose queries decide and whose rows stay.
        kernel: neighbours over which attention is pooled, an odd number.
        pooling: `avg` or `max`.

    Raises:
        OptionError: a value is out of range.
    """

    name: ClassVar[str] = "snapkv"

    budget: float = 1024
    every: int = 0
    window: int = 32
    kernel: int = 15
    pooling: str = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        _WINDOW.check("window", self.window)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise OptionError(f"kernel is {self.kernel}", hint="Give an odd number, such as 15")
        if self.pooling not in ("avg", "max"):
            raise OptionError(f"pooling is {self.pooling!r}", hint="Use pooling=avg or max")
        if self.chunk or self.every:
            raise OptionError(
                "snapkv compresses the prompt once, at its end",
                hint="Leave out chunk and every, or use h2o",
            )

    def begin(self, shape: Shape) -> Eviction:
        """Return the policy for one text."""
        return _Voted(self)


class _Voted(Eviction):
    """`SnapKV` for one text; it needs no state."""

    def __init__(self, policy: SnapKV) -> None:
        self._policy = policy

    def asks(self, rows: IntArray, prompt: int) -> BoolArray | None:
        return (rows >= prompt - self._policy.window) & (rows < prompt)

    def choose(self, view: View) -> Choice | None:
        policy, shape = self._policy, view.shape
        budget = policy.budget_of(view.rows)
        if budget >= view.rows or not len(view.asked):
            return None
        window = min(policy.window, budget)
        old = view.rows - window
        chosen: list[IntArray | None] = []
        for layer in range(shape.num_layers):
            if not shape.reads_all[layer]:
                chosen += [None] * shape.num_kv_heads
                continue
            grouped = view.queries(layer).unflatten(1, (shape.num_kv_heads, shape.group))
            for head, keys in enumerate(view.keys(layer)):
                rows = np.arange(view.rows)
                votes = received(grouped[:, head], keys, view.asked, rows, cap=shape.cap)
                votes = self._pooled(votes[:, :old].sum(dim=0).float())
                kept = best(votes, budget - window).cpu().numpy()
                chosen.append(np.concatenate((kept, rows[old:])))
        return with_planes(view, chosen)

    def _pooled(self, votes: torch.Tensor) -> torch.Tensor:
        kernel, half = self._policy.kernel, self._policy.kernel // 2
        line = votes[None, None]
        if self._policy.pooling == "max":
            return F.max_pool1d(line, kernel, stride=1, padding=half)[0, 0]
        return F.avg_pool1d(line, kernel, stride=1, padding=half)[0, 0]

    def copy(self) -> "Eviction":
        return self


METHOD = KvMethod(
    name="snapkv",
    cls=SnapKV,
    summary="Compresses a prompt once: keeps the rows that its last tokens attend to",
    paper=Paper("SnapKV: LLM Knows What You are Looking for Before Generation", "2404.14469"),
    memory="budget rows of each head, and all rows of the answer",
)
