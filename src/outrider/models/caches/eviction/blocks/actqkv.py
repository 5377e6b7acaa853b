"""ActQKV: blocks of old rows, fetched by the queries that deviate most, with a budget per layer."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.models.caches.eviction.blocks.retrieval import Blocks, Retrieval
from outrider.models.caches.eviction.policy import Choice, Eviction, Shape, View
from outrider.models.caches.eviction.record import KvMethod
from outrider.protocols.method import Paper


@dataclass(frozen=True, kw_only=True)
class ActQKV(Retrieval):
    """`InfLLM` with another query and with other budgets.

    The query is the sum of the latest ones, weighted by the squared distance of each from their
    mean. In the answer, layers whose blocks fit about equally well read more blocks, up to twice as
    many, and layers with a clear choice fewer. The formulas are ours, as the paper gives none.

    Attributes:
        weighted: whether queries are weighted; otherwise their mean is used.
        adaptive: whether layers have budgets of their own.
    """

    name: ClassVar[str] = "actqkv"

    weighted: bool = True
    adaptive: bool = True

    def begin(self, shape: Shape) -> Eviction:
        """Return the policy for one text. Raises `OptionError` if it does not fit the model."""
        self.check(shape)
        return ActivatedBlocks(self, shape)


class ActivatedBlocks(Blocks):
    """`ActQKV` for one text."""

    policy: ActQKV
    _in_answer = False

    def choose(self, view: View) -> Choice | None:
        """Choose rows as `Blocks` does; layers have budgets of their own behind the prompt only."""
        self._in_answer = view.rows >= view.prompt
        return super().choose(view)

    def probe(
        self, queries: Float[Tensor, "queries heads head_dim"]
    ) -> Float[Tensor, "heads head_dim"]:
        """Return the sum of the latest queries, weighted by their activation."""
        return activated(queries) if self.policy.weighted else super().probe(queries)

    def shares(self, scores: list[Float[Tensor, " blocks"]], room: int) -> list[int]:
        """Return how many blocks each layer reads: in proportion to the entropy of the scores."""
        if not (self.policy.adaptive and self._in_answer and room and len(scores[0])):
            return super().shares(scores, room)
        return by_entropy([entropy(own) for own in scores], room)

    def copy(self) -> "ActivatedBlocks":
        """Return an independent copy."""
        twin = super().copy()
        assert isinstance(twin, ActivatedBlocks)
        twin._in_answer = self._in_answer
        return twin


def activated(queries: Float[Tensor, "queries heads head_dim"]) -> Float[Tensor, "heads head_dim"]:
    """Return the sum of queries, each weighted by its squared distance from their mean.

    If all are equal, or there is one, it is their mean.
    """
    bias = (queries - queries.mean(dim=0)).square().mean(dim=-1, keepdim=True)
    total = bias.sum(dim=0, keepdim=True)
    even = torch.full_like(bias, 1 / len(queries))
    weights = torch.where(total > 0, bias / total.clamp(min=torch.finfo(bias.dtype).tiny), even)
    return (weights * queries).sum(dim=0)


def entropy(scores: Float[Tensor, " blocks"]) -> float:
    """Return the entropy of the softmax of scores, in nats; 0 if they are not numbers."""
    logs = scores.double().log_softmax(dim=0)
    return float(-torch.nan_to_num(logs.exp() * logs).sum())


def by_entropy(entropies: list[float], room: int) -> list[int]:
    """Share out `room` blocks for each layer, on average, in proportion to entropies.

    No layer gets fewer than one block or more than twice `room`; the sum is exact.
    """
    layers, most = len(entropies), 2 * room
    total = room * layers
    weights = np.maximum(np.array(entropies), 1e-12)
    exact = total * weights / weights.sum()
    shares = np.clip(np.floor(exact), 1, most).astype(int)
    while (left := total - int(shares.sum())) != 0:
        step = 1 if left > 0 else -1
        open_ = (shares < most) if left > 0 else (shares > 1)
        wants = np.where(open_, step * (exact - shares), -np.inf)
        shares[int(wants.argmax())] += step
    return shares.tolist()


METHOD = KvMethod(
    name="actqkv",
    cls=ActQKV,
    summary="Like infllm; queries that deviate count more, and layers have budgets of their own",
    paper=Paper("ActQKV: Activation-aware Probe-Query for Long-Context Retrieval", "2502.13542"),
    memory="all rows, and a second copy of those that are read",
)
