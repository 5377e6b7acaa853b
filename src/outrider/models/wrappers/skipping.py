"""Unified Layer Skipping as a model: all layers read prompts, a subset of layers writes answers.

Liu et al. 2024 (arXiv 2404.06954). The text *differs* from that of the full model, because nothing
verifies it. A model fine-tuned with the kept layers loses little quality; others lose a lot.
`EvenSkip` (`drafters/layers/skip.py`) uses the same layers as a drafter, without loss.
"""

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from outrider.core.checks import Range
from outrider.core.errors import StrategyError
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, Exactness, IntArray, Prompt, Rows, as_ids
from outrider.models.wrappers.passing import ModelWrapper
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.protocols.method import Method, Paper


class SkippingModel(ModelWrapper):
    """A `LanguageModel` that reads prompts like `model` and writes with evenly spread layers.

    All tokens of a prompt pass all layers, the last one included, so the first token of the answer
    is that of `model`. A generated token passes exactly `len(layers.layers)` layers. The next turn
    of a chat reads the generated tokens again with all layers.

    Args:
        model: the full model.
        speedup: factor by which the layers of a generated token are reduced; 1 is `model` itself.
        name: its name in errors and reports.

    Its `exactness` is `lossy`: the text differs from that of the full model.

    Raises:
        StrategyError: `model` cannot skip layers.
        OptionError: a speedup below 1, or one that leaves fewer than two layers.
    """

    def __init__(self, model: LanguageModel, *, speedup: float, name: str | None = None) -> None:
        layered = model.layered
        if layered is None:
            raise StrategyError(
                f"{model.info.name} cannot skip layers",
                hint="Use a model with the capability `layered`",
            )
        self.layers = layers = LayerSet.for_speedup(layered.num_layers, speedup)
        self.part = layered.subset(layers)
        info = replace(
            model.info,
            name=name or self.part.info.name,
            find_fingerprint=lambda: f"{model.info.fingerprint}-{len(layers.layers)}",
            exactness=Exactness.LOSSY,
            weight_bytes=self.part.info.weight_bytes,
        )
        super().__init__(model, info)
        # The layers that read a token depend on its place, so only its own forward can use its
        # caches.
        self.layered = self.segmented = self.chain_decoder = self.selector = None
        self._read: WeakKeyDictionary[Cache, int] = WeakKeyDictionary()

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> Sequence[Cache]:
        """Read the prompts with all layers. Raises `ContextError`."""
        old = None if reuse is None else [self._cut(cache) for cache in reuse]
        caches = self.inner.start(prompts, old)
        for cache, prompt in zip(caches, prompts, strict=True):
            self._read[cache] = len(prompt)
        return caches

    def _cut(self, cache: Cache | None) -> Cache | None:
        """Return `cache` without the rows that only the kept layers have read."""
        read = None if cache is None else self._read.get(cache)
        if cache is None or read is None:
            return None
        if len(cache.text) > read:
            cache.truncate(read + 1)  # the last token of a text is always read again
        return cache

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments: the end of a prompt with all layers, later tokens with the kept ones.

        Raises:
            ContextError: a token would lie beyond the context window.
        """
        first = [i for i, segment in enumerate(segments) if self._is_first(segment.cache)]
        if self.layers.is_everything or not first:
            return self.part.forward(segments, want)
        ends = self.inner.forward(
            [Segment(segments[i].cache, NO_IDS) for i in first],
            [as_ids([-1] * int((want[i] < 0).any())) for i in first],
        )
        rest = [w[w >= 0] if i in first else w for i, w in enumerate(want)]
        out = self.part.forward(segments, rest)
        for i, end in zip(first, ends, strict=True):
            out[i] = _merged(want[i], end, out[i])
        return out

    def _is_first(self, cache: Cache) -> bool:
        """Whether the pending tokens are the unread end of the prompt."""
        return not cache.fed and len(cache.text) == self._read.get(cache)


def _merged(want: IntArray, end: Rows, rest: Rows) -> Rows:
    """Merge rows in the requested order; those with number -1 come from `end`."""
    places, old = [], 0
    for row in want:
        places.append(len(rest.logits) if row < 0 else old)
        old += row >= 0
    index = torch.tensor(places, dtype=torch.int64, device=rest.logits.device)
    rows = Rows(torch.cat((rest.logits, end.logits))[index])
    if rest.hidden is not None and end.hidden is not None:
        rows = replace(rows, hidden=torch.cat((rest.hidden, end.hidden))[index])
    if rest.states is not None and end.states is not None:
        rows = replace(rows, states=torch.cat((rest.states, end.states), dim=1)[:, index])
    return rows


def skipping(model: LanguageModel, speedup: float) -> LanguageModel:
    """Wrap `model` to write answers with fewer layers; return it unchanged if `speedup` is 1.

    Raises:
        StrategyError: `model` cannot skip layers.
        OptionError: fewer than two layers would be left.
    """
    return model if speedup == 1.0 else SkippingModel(model, speedup=speedup)


_SPEEDUP = Range(1.0, below=True, hint="Give a number from 1, which skips none; 2 skips half")


def check_speedup(speedup: float) -> None:
    """Raise `OptionError` unless `speedup` is a finite number of at least 1."""
    _SPEEDUP.check("layer_skipping", speedup)


METHOD = Method(
    name="skipping",
    cls=SkippingModel,
    summary="answers with a part of the layers: --layer-skipping, load(layer_skipping=...)",
    paper=Paper("Unified Layer Skipping", "2404.06954"),
    promise=Exactness.LOSSY,
    needs="a model whose layers can be left out",
)
