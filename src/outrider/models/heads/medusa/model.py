"""Runs Medusa heads beside their target: a draft model without keys and values.

The existing kernels run whole layers, so these few products are computed in PyTorch.
"""

from collections.abc import Sequence
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import CacheBook, Feed, Run
from outrider.models.caches.kv_cache import CacheLayout
from outrider.models.caches.narrowing import narrowed
from outrider.models.heads.cache import Following
from outrider.models.heads.config import HeadShape
from outrider.models.heads.medusa.module import MedusaModule
from outrider.models.heads.model import HeadInputs, HeadModel, heads_of_rows
from outrider.models.heads.module import HeadNetwork
from outrider.protocols import Cache, LanguageModel

_TURNS = 6
_EVICTING = 64 << 20
"""Bytes that are more than the caches of most processors hold."""


class StateCache(Following, CacheBook):
    """A cache that stores nothing: every row reads the state at the end of the text.

    Args:
        layout: of the model, which shows that a cache is its own.
        heads: number of heads.
    """

    def __init__(self, layout: CacheLayout, heads: int) -> None:
        CacheBook.__init__(self, layout.context_length)
        self.layout, self._heads = layout, heads

    @property
    def longest(self) -> int:
        """The number of heads, each of which drafts one token."""
        return self._heads

    def _move(self, slots: Sequence[int], start: int) -> None:
        pass

    def _lay_out(self, kept: Sequence[Run], slots: int) -> None:
        pass

    def _share(self) -> "StateCache":
        return StateCache(self.layout, self._heads)


class MedusaModel(HeadModel):
    """Medusa heads as a `LanguageModel`, whose row at depth d has the logits of head d.

    The tokens of a draft do not change its logits, only their depth does.

    Args:
        module: the heads.
        tensors: their tensors (`MedusaConfig.shapes`).
        target: the model whose states they read; it keeps the last one.
        name: their name in errors and reports.

    Attributes:
        accuracies: `[heads, ranks]` how often the token of each rank is right; None: unknown.
    """

    def __init__(
        self, module: MedusaModule, tensors: dict[str, Tensor], target: LanguageModel, name: str
    ) -> None:
        super().__init__(module, tensors, target, name)
        self.heads = module.config.heads
        found = tensors.get("accuracies")
        self.accuracies = None if found is None else found.double().numpy()
        self._network = module

    @property
    def ids(self) -> Tensor:
        """`[draft]` the target's id of each token that the heads can draft."""
        return self._ids

    def _layout_for(self, module: HeadNetwork[HeadShape], device: torch.device) -> CacheLayout:
        return CacheLayout(
            num_layers=0,
            num_kv_heads=0,
            head_dim=0,
            context_length=self.target.info.context_length,
            dtype=torch.float32,
            device=device,
        )

    def _owns(self, cache: Following) -> bool:
        return isinstance(cache, StateCache) and cache.layout is self._layout

    def _fresh_cache(self) -> StateCache:
        return StateCache(self._layout, self.heads)

    @torch.inference_mode()
    def after(self, cache: Cache) -> Float[Tensor, "heads draft"]:
        """Return the logits of all heads after the text of a cache that is `ready`.

        Raises:
            IndexError: the target has no state at the end of the text yet.
        """
        own = narrowed(cache, StateCache, self.info.name)
        place = len(own.text) - 1
        [[state]] = self._states.kept(own.source, place, place + 1)
        return self._network.all_logits(state)

    def draft_seconds(self) -> float:
        """Measure the seconds of one head, whose weights the target has replaced in the caches of
        the processor; here another large array does so."""
        others = torch.zeros(min(self.target.info.weight_bytes or 0, _EVICTING), dtype=torch.uint8)
        state, least = torch.zeros(self.config.width), float("inf")
        with torch.inference_mode():
            for _ in range(_TURNS):
                others += 1
                begun = perf_counter()
                self._network.all_logits(state)
                least = min(least, perf_counter() - begun)
        return max(least / self.heads, 1e-7)

    def _run(
        self, cache: Following, feed: Feed, inputs: HeadInputs, keep: IntArray
    ) -> tuple[Tensor, Tensor]:
        """Return logits of the draft vocabulary, and the state that the rows after them read."""
        rows = keep.tolist()
        if inputs.states is not None:
            states, heads = inputs.states[rows, -1], [0] * len(rows)
        else:
            assert inputs.outputs is not None  # a row has states or an output before it
            states = inputs.outputs[rows]
            heads = heads_of_rows(cache, feed, rows, self.heads, self.info.name)
        logits = torch.empty(len(rows), self.config.draft_vocab)
        for head in set(heads):
            here = [row for row, own in enumerate(heads) if own == head]
            logits[here] = self._network.logits(states[here], head)
        return logits, states
