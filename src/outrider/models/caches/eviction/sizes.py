"""Bytes of the cache of a text under a policy, without a model: what the storage allocates."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.eviction.planes import BLOCK, Planes
from outrider.models.caches.eviction.policy import KvPolicy, Shape, View

SPARE = 64
"""Rows for which planes have space behind what they keep."""


def text_bytes(policy: KvPolicy, shape: Shape, rows: int, slot: int) -> int:
    """Return the bytes of a cache that has read a prompt, and of what the policy notes.

    While a prompt is read whole (`KvPolicy.chunk` is 0), all of its rows are held besides.

    Args:
        policy: the policy.
        shape: the shape of the cache.
        rows: rows of the prompt.
        slot: bytes of key and value of one row in one plane.

    Raises:
        OptionError: the policy does not fit the model.
    """
    points = _points(policy, rows)
    eviction = policy.begin(shape)
    choice = eviction.choose(_Prompt(policy, shape, points[-1])) if points else None
    if choice is None:
        slots = shape.planes * rows
    else:
        planes = Planes(tuple(choice.rows), points[-1])
        slots = int(planes.sizes(max(rows, points[-1]) + SPARE).sum())
    stored = 0
    for point in points:
        if policy.archived(point) > stored:
            wanted = max(policy.archived(point), stored + stored // 4)
            stored = -(-wanted // BLOCK) * BLOCK
    return (slots + stored * shape.planes) * slot + eviction.nbytes


def _points(policy: KvPolicy, rows: int) -> list[int]:
    """Return the points of a prompt; what follows its last one is not yet decided on."""
    step = policy.chunk
    found = list(range(step, rows + 1, step)) if step else []
    if not policy.reads_texts and rows and (not found or found[-1] < rows):
        found.append(rows)
    return found


class _Prompt(View):
    """A prompt of equal keys, of which nothing is dropped, with one query of those that the policy
    asks for: how many rows are kept does not depend on numbers."""

    def __init__(self, policy: KvPolicy, shape: Shape, rows: int) -> None:
        prompt = 0 if policy.reads_texts else rows
        wanted = policy.begin(shape).asks(np.arange(rows), prompt)
        none = np.zeros(0, dtype=np.int64)
        self._shape, self._rows, self._prompt = shape, rows, prompt
        self._asked = none if wanted is None else np.flatnonzero(wanted)[-1:]

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def prompt(self) -> int:
        return self._prompt

    @property
    def asked(self) -> IntArray:
        return self._asked

    def kept(self, plane: int) -> IntArray:
        return np.arange(self.rows)

    def keys(self, layer: int) -> list[Float[Tensor, "kept head_dim"]]:
        one = torch.zeros(1, self.shape.head_dim)
        return [one.expand(self.rows, -1)] * self.shape.num_kv_heads

    def stored_keys(self, layer: int, rows: IntArray) -> Float[Tensor, "kv_heads rows head_dim"]:
        return torch.zeros(self.shape.num_kv_heads, len(rows), self.shape.head_dim)

    def turned(
        self, layer: int, keys: Float[Tensor, "kv_heads rows head_dim"], turns: IntArray
    ) -> Float[Tensor, "kv_heads rows head_dim"]:
        return keys

    def queries(self, layer: int) -> Float[Tensor, "asked heads head_dim"]:
        return torch.zeros(len(self.asked), self.shape.num_heads, self.shape.head_dim)
