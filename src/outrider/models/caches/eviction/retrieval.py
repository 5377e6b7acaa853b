"""Retrieval of blocks: all rows are stored, and attention reads a few blocks of old ones.

What `infllm.py` and `actqkv.py` share. Old rows form blocks. Each block is known by a few rows, its
representatives, which got the most attention while they were recent. At a point, the blocks whose
representatives fit the latest queries best are fetched from the archive. All far rows stand at one
position, the edge of the recent rows, so that no distance exceeds the window of the model.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import BoolArray, IntArray
from outrider.models.caches.eviction.policy import Choice, Eviction, KvPolicy, Shape, View, whole
from outrider.models.caches.eviction.weights import best, received

_COUNT = Range(1, whole=True, hint="Give a number of rows, such as 64")
_SHARE = Range(0, 1, above=True, below=True, hint="Give a share of the budget, such as 0.5")
_SINKS = Range(0, whole=True, hint="Give the rows at the beginning that stay, such as 64")

_MOST = 64
"""Queries of one interval that weigh recent rows, at most."""


@dataclass(frozen=True, kw_only=True)
class Retrieval(KvPolicy):
    """Options of policies that retrieve blocks.

    The budget counts the rows that attention reads: sinks, blocks and recent rows together. Memory
    is not saved, since all rows are stored as well.

    Attributes:
        sinks: rows at the beginning that are always read.
        local: share of the budget for recent rows.
        block: rows of a block.
        representatives: rows by which a block is known.
        probe: the latest tokens whose queries choose blocks.
        positions: `edge`: far rows stand at the edge of the recent ones, so that texts may be
            longer than the window; `original`: where they were read.

    Raises:
        OptionError: a value is out of range.
    """

    chunk: int = 512
    every: int = 32
    sinks: int = 32
    local: float = 0.5
    block: int = 64
    representatives: int = 4
    probe: int = 32
    positions: str = "edge"

    def __post_init__(self) -> None:
        super().__post_init__()
        _SINKS.check("sinks", self.sinks)
        _SHARE.check("local", self.local)
        for name in ("block", "representatives", "probe"):
            _COUNT.check(name, getattr(self, name))
        if self.positions not in ("edge", "original"):
            raise OptionError(
                f"positions is {self.positions!r}", hint="Use positions=edge or original"
            )
        if not self.chunk or not self.every:
            raise OptionError(
                "blocks are chosen at points, and there are none in the prompt or in the answer",
                hint="Give chunk and every, such as chunk=512 and every=32",
            )

    @property
    def moves(self) -> bool:
        """Whether far rows stand at the edge of the recent ones."""
        return self.positions == "edge" and self.budget > 1

    def archived(self, rows: int) -> int:
        """All rows are stored."""
        return rows

    def check(self, shape: Shape) -> None:
        """Raise `OptionError` if recent rows do not fit into the window of the model."""
        longest = self.budget * self.local + self.block + max(self.chunk, self.every)
        if self.moves and longest >= shape.context_length:
            raise OptionError(
                f"{self.budget * self.local:g} recent rows and {self.chunk} new ones exceed the "
                f"window of {shape.context_length} tokens",
                hint="Give a smaller budget, share of recent rows, or chunk",
            )


class Blocks(Eviction):
    """Retrieval for one text.

    Attributes:
        count: number of blocks.
        marks: for each layer, rows of representatives, `[blocks * representatives]`.
        keys: for each layer, their keys as they were read, `[kv_heads, blocks * representatives,
            head_dim]`.
        mass: for each layer, the attention that recent rows got, from row `begin` on.
    """

    def __init__(self, policy: Retrieval, shape: Shape) -> None:
        self.policy = policy
        self.count = 0
        none = np.zeros(0, dtype=np.int64)
        self.marks = [none] * shape.num_layers
        self.keys = [torch.zeros(shape.num_kv_heads, 0, shape.head_dim)] * shape.num_layers
        self.mass = [torch.zeros(0)] * shape.num_layers

    @property
    def nbytes(self) -> int:
        """Bytes of the keys of representatives, and of attention sums."""
        return sum(part.nbytes for part in (*self.keys, *self.mass))

    @property
    def begin(self) -> int:
        """The first row behind all blocks."""
        return self.policy.sinks + self.count * self.policy.block

    def asks(self, rows: IntArray, prompt: int) -> BoolArray | None:
        """Ask for the latest rows of each interval, and for a sample of the others."""
        policy = self.policy
        chunk = np.where(rows < prompt, policy.chunk, policy.every)
        end = np.where(
            rows < prompt,
            np.minimum((rows // policy.chunk + 1) * policy.chunk, prompt),
            prompt + ((rows - prompt) // policy.every + 1) * policy.every,
        )
        return (end - rows <= policy.probe) | (rows % np.maximum(chunk // _MOST, 1) == 0)

    def choose(self, view: View) -> Choice | None:
        """Form blocks of rows that are no longer recent, and choose blocks to read."""
        policy, budget = self.policy, self.policy.budget_of(view.rows)
        if view.rows <= policy.sinks:
            return None
        recent = max(round(policy.local * budget), 1)
        layers = [layer for layer in range(view.shape.num_layers) if view.shape.reads_all[layer]]
        for layer in layers:
            self._weigh(view, layer)
        formed = max((view.rows - recent - self.begin) // policy.block, 0)
        if formed:
            for layer in layers:
                self._form(view, layer, formed)
            self.count += formed
        room = (budget - policy.sinks - recent - policy.block) // policy.block
        if view.rows <= budget and all(
            len(view.kept(p)) == view.rows for p in range(view.shape.planes)
        ):
            return None
        return self._choice(view, layers, max(room, 0))

    # -- what blocks are known by -----------------------------------------------------------

    def _weigh(self, view: View, layer: int) -> None:
        """Add the attention that recent rows get from new queries."""
        recent = np.arange(self.begin, view.rows)
        mass, shape = self.mass[layer], view.shape
        mass = torch.cat((mass, mass.new_zeros(max(len(recent) - len(mass), 0))))
        grouped = view.queries(layer).unflatten(1, (shape.num_kv_heads, shape.group))
        if len(view.asked) and len(recent):
            for head, keys in enumerate(view.keys(layer)):
                own = keys[len(keys) - len(recent) :]  # recent rows are the last ones of a plane
                got = received(grouped[:, head], own, view.asked, recent)
                mass = mass + got.sum(dim=0).float().cpu()
        self.mass[layer] = mass

    def _form(self, view: View, layer: int, count: int) -> None:
        """Choose the representatives of `count` new blocks."""
        policy, size = self.policy, count * self.policy.block
        mass = self.mass[layer]
        seen = torch.arange(len(mass), 0, -1)  # early rows were seen by more queries
        merit = (mass / seen)[:size].view(count, policy.block)
        number = min(policy.representatives, policy.block)
        marks = torch.stack([best(own, number) for own in merit]).numpy()
        rows = (marks + self.begin + np.arange(count)[:, None] * policy.block).ravel()
        keys = view.stored_keys(layer, rows).float().cpu()
        self.marks[layer] = np.concatenate((self.marks[layer], rows))
        self.keys[layer] = torch.cat((self.keys[layer], keys), dim=1)
        self.mass[layer] = mass[size:]

    # -- choice -----------------------------------------------------------------------------

    def probe(
        self, queries: Float[Tensor, "queries heads head_dim"]
    ) -> Float[Tensor, "heads head_dim"]:
        """Return one query for the latest ones: their mean (InfLLM)."""
        return queries.mean(dim=0)

    def shares(self, scores: list[Float[Tensor, " blocks"]], room: int) -> list[int]:
        """Return how many blocks each layer reads, given the scores of all: equally many."""
        return [room] * len(scores)

    def _scores(self, view: View, layer: int) -> Float[Tensor, " blocks"]:
        """Return how well each block fits the latest queries."""
        shape, policy = view.shape, self.policy
        if not len(view.asked):
            return torch.arange(self.count, dtype=torch.float32)  # nothing is known: the last ones
        latest = view.asked >= view.rows - policy.probe
        queries = view.queries(layer)[torch.from_numpy(latest)]
        if not len(queries):
            queries = view.queries(layer)[-1:]
        probe = self.probe(queries.float().cpu()).unflatten(0, (shape.num_kv_heads, shape.group))
        keys = self.keys[layer]
        if policy.positions == "edge":
            keys = view.turned(keys, self.begin - self.marks[layer])
        fits = torch.einsum("hgd,hkd->k", probe, keys)
        return fits.view(self.count, -1).sum(dim=1)

    def _choice(self, view: View, layers: list[int], room: int) -> Choice:
        policy, shape = self.policy, view.shape
        rows = whole(view)
        turns = [rows[0][:0]] * shape.planes
        scores = [self._scores(view, layer) for layer in layers]
        recent = np.arange(self.begin, view.rows)
        inside = np.arange(policy.block)
        for layer, own, share in zip(layers, scores, self.shares(scores, room), strict=True):
            blocks = best(own, min(share, self.count)).numpy()
            far = (policy.sinks + blocks[:, None] * policy.block + inside).ravel()
            far = np.concatenate((np.arange(policy.sinks), far))
            for plane in shape.of_layer(layer):
                rows[plane] = np.concatenate((far, recent))
                if policy.positions == "edge":
                    turns[plane] = self.begin - far
        return Choice(rows=rows, turns=turns)

    def copy(self) -> "Blocks":
        """Return an independent copy; tensors are not written in place."""
        twin = object.__new__(type(self))
        twin.policy, twin.count = self.policy, self.count
        twin.marks, twin.keys, twin.mass = list(self.marks), list(self.keys), list(self.mass)
        return twin
