"""Runs Clover heads beside their target, in PyTorch.

Rows of the text run the augmenting block, which has keys and values. Rows of drafted tokens read
the state of their parent only; they leave no keys, so that nodes of a tree with one parent share
its state, and no mask is needed.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.kv_cache import CacheLayout
from outrider.models.heads.cache import Following, HeadCache
from outrider.models.heads.clover.config import CloverConfig
from outrider.models.heads.clover.module import CloverModule
from outrider.models.heads.config import HeadShape
from outrider.models.heads.model import HeadInputs, HeadModel, heads_of_rows
from outrider.models.heads.module import HeadNetwork
from outrider.models.llama.attention import reach
from outrider.models.llama.base import cache_layout
from outrider.models.llama.rope import RotaryTable
from outrider.protocols import LanguageModel


class CloverModel(HeadModel):
    """Clover heads as a `LanguageModel`.

    Args:
        module: the heads.
        tensors: their tensors (`CloverConfig.shapes`).
        target: the model whose states they read; it keeps the last one.
        name: their name in errors and reports.
    """

    def __init__(
        self, module: CloverModule, tensors: dict[str, Tensor], target: LanguageModel, name: str
    ) -> None:
        super().__init__(module, tensors, target, name)
        self._network = module

    def _layout_for(self, module: HeadNetwork[HeadShape], device: torch.device) -> CacheLayout:
        config = module.config
        assert isinstance(config, CloverConfig)  # no other heads run in this model
        self._rotary = RotaryTable(config.layer.rope, torch.float32, device)
        layout = cache_layout(config.layer, torch.float32, device)
        return replace(layout, num_layers=config.layers)

    def _fresh_cache(self) -> HeadCache:
        return HeadCache(self._layout, longest=self._network.config.longest)

    def _run(
        self, cache: Following, feed: Feed, inputs: HeadInputs, keep: IntArray
    ) -> tuple[Tensor, Tensor]:
        """Return logits of the draft vocabulary, and the state of the draft after each row."""
        assert isinstance(cache, HeadCache)
        network = self._network
        if inputs.states is not None:
            state = self._augmented(cache, feed, inputs.states)[torch.from_numpy(keep)]
            predicted = network.first(state)
        else:
            assert inputs.outputs is not None  # a row has states or an output before it
            before = inputs.outputs[torch.from_numpy(keep)]
            state, predicted = self._stepped(cache, feed, before, keep)
        return F.linear(predicted, network.lm_head), state

    def _augmented(self, cache: HeadCache, feed: Feed, states: Tensor) -> Tensor:
        """Run the augmenting block over rows of the text; return the states of drafts there."""
        network, tokens = self._network, torch.from_numpy(feed.tokens)
        stream = network.enter(states[:, -1], tokens)
        if network.config.layers:
            cache.reserve(feed.start, feed.end)
            seen = reach(feed, cache, None)
            for number in range(network.config.layers):
                layer = network.layer(number)
                projected = layer.project(layer.norm(stream, "input_layernorm.weight"))
                attended = self._attended(cache, feed, seen, projected, layer.config, number)
                stream = layer.leave(stream, attended)
        return network.finish(stream)

    def _stepped(
        self, cache: Following, feed: Feed, before: Tensor, keep: IntArray
    ) -> tuple[Tensor, Tensor]:
        """Return the states after drafted tokens, and what the heads after them predict."""
        network = self._network
        tokens = torch.from_numpy(feed.tokens[keep])
        if network.config.regressive:
            return network.step(before, tokens, 1)
        predicted = torch.empty_like(before)
        heads = heads_of_rows(cache, feed, keep.tolist(), network.config.heads, self.info.name)
        for head in set(heads):
            here = [row for row, own in enumerate(heads) if own == head]
            predicted[here] = network.step(before[here], tokens[here], head)[1]
        return before, predicted
