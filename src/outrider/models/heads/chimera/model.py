"""Runs a head of Chimera beside its target, in PyTorch."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import IntArray
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.kv_cache import CacheLayout
from outrider.models.heads.cache import Following, HeadCache
from outrider.models.heads.chimera.module import ChimeraModule
from outrider.models.heads.config import HeadShape
from outrider.models.heads.model import HeadInputs, HeadModel, heads_of_rows
from outrider.models.heads.module import HeadNetwork
from outrider.models.llama.attention import attend, reach
from outrider.models.llama.rope import rotate
from outrider.protocols import LanguageModel

Gram = tuple[int, ...]

_KNOWN = 4096
"""Encoded tokens that a head keeps; their vectors depend on no other token."""


class ChimeraModel(HeadModel):
    """A head of Chimera as a `LanguageModel`, whose row at depth d has the logits of head d.

    Args:
        module: the head.
        tensors: its tensors (`ChimeraConfig.shapes`).
        target: the model whose states it reads; it keeps the last one.
        name: its name in errors and reports.

    Attributes:
        heads: number of heads.
        accuracies: `[heads, ranks]` how often the token of each rank is right; None: unknown.
    """

    def __init__(
        self, module: ChimeraModule, tensors: dict[str, Tensor], target: LanguageModel, name: str
    ) -> None:
        self.heads, self._network = module.config.heads, module
        super().__init__(module, tensors, target, name)
        found = tensors.get("accuracies")
        self.accuracies = None if found is None else found.double().numpy()
        self._encoded: dict[Gram, Tensor] = {}

    @property
    def ids(self) -> Tensor:
        """`[draft]` the target's id of each token that the head can draft."""
        return self._ids

    def _layout_for(self, module: HeadNetwork[HeadShape], device: torch.device) -> CacheLayout:
        layout = super()._layout_for(module, device)
        return layout if self._network.config.context else replace(layout, num_layers=0)

    def _fresh_cache(self) -> HeadCache:
        return HeadCache(self._layout, longest=self.heads)

    def _run(
        self, cache: Following, feed: Feed, inputs: HeadInputs, keep: IntArray
    ) -> tuple[Tensor, Tensor]:
        """Read rows; return logits of the draft vocabulary and outputs of the rows `keep`."""
        rows, states = keep.tolist(), inputs.states
        outputs = self._encode([self._gram(cache, feed, row) for row in rows])
        if self._network.config.context:
            assert isinstance(cache, HeadCache)
            before = inputs.outputs if states is None else states[:, -1]
            assert before is not None  # a row has states or an output before it
            outputs = self._through_layer(cache, feed, before, outputs, rows)
        heads = heads_of_rows(cache, feed, rows, self.heads, self.info.name)
        place = cache.offset + len(cache.text) - 1
        last = self._states.kept(cache.source, place, place + 1)[0, -1]
        logits = torch.empty(len(rows), self.config.draft_vocab)
        for head in set(heads):
            here = [row for row, own in enumerate(heads) if own == head]
            logits[here] = self._network.logits(last, outputs[here], head)
        return logits, outputs

    def _through_layer(
        self,
        cache: HeadCache,
        feed: Feed,
        before: Float[Tensor, "rows width"],
        encoded: Float[Tensor, "kept width"],
        rows: list[int],
    ) -> Float[Tensor, "kept width"]:
        """Store what the rows read in place of the state before their token; return the outputs of
        the layer for the rows `rows`, whose encoded tokens are given."""
        module = self._network
        cache.reserve(feed.start, feed.end)
        storage = cache.storage
        places, bound = torch.from_numpy(feed.positions), int(feed.positions.max()) + 2
        keys, values = module.remembered(before)
        stored = rotate(keys, *self._rotary.at(places, bound))
        storage.keys[0][:, feed.start : feed.end] = stored.transpose(0, 1)
        storage.values[0][:, feed.start : feed.end] = values.transpose(0, 1)
        if not rows:
            return encoded
        queries, own_keys, own_values = module.drafting(encoded)
        turns = self._rotary.at(places[rows] + 1, bound)  # a state lies one place before its token
        seen, alone = reach(feed, cache, None), torch.full((len(rows), len(rows)), -torch.inf)
        alone.fill_diagonal_(0)
        text = (
            torch.zeros(len(rows), feed.end - seen.first) if seen.mask is None else seen.mask[rows]
        )
        attended = attend(
            rotate(queries, *turns),
            torch.cat(
                (storage.keys[0][:, seen.first : feed.end], _own(rotate(own_keys, *turns))), 1
            ),
            torch.cat((storage.values[0][:, seen.first : feed.end], _own(own_values)), 1),
            torch.cat((text, alone), dim=1),
            module.config.layer.attention_scale,
        )
        return module.leave(encoded, attended)

    def _gram(self, cache: Following, feed: Feed, row: int) -> Gram:
        """Return the last tokens of a row of a feed; the first one is repeated where some lack."""
        count, found = self._network.config.grams, list[int]()
        drafted = feed.start + row - len(cache.text)
        while len(found) < count and drafted >= 0:
            found.insert(0, cache.speculative_token(drafted))
            drafted = cache.parent(drafted)
        if missing := count - len(found):
            found = [*map(int, cache.text[-missing:]), *found]
        return (*(found[:1] * (count - len(found))), *found)

    def _encode(self, grams: list[Gram]) -> Float[Tensor, "kept width"]:
        """Return the vectors of tokens, of which only unknown ones are computed."""
        fresh = [gram for gram in dict.fromkeys(grams) if gram not in self._encoded]
        if len(self._encoded) + len(fresh) > _KNOWN:
            self._encoded, fresh = {}, list(dict.fromkeys(grams))
        if fresh:
            self._encoded |= zip(fresh, self._network.encoded(torch.tensor(fresh)), strict=True)
        if not grams:
            return torch.empty(0, self.config.width)
        return torch.stack([self._encoded[gram] for gram in grams])


def _own(heads: Float[Tensor, "rows heads head_dim"]) -> Float[Tensor, "heads rows head_dim"]:
    return heads.transpose(0, 1)
