"""Runs a head beside its target, in PyTorch: a draft model that reads the target's states."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.errors import StrategyError
from outrider.core.types import IntArray, Prompt, Rows, as_ids
from outrider.models.caches.bookkeeping import Feed
from outrider.models.caches.kv_cache import CacheLayout
from outrider.models.caches.narrowing import narrowed
from outrider.models.heads.cache import Following, HeadCache, skipped_of
from outrider.models.heads.config import HeadKind, HeadShape
from outrider.models.heads.hints import Hints, HintSource
from outrider.models.heads.module import HeadModule, HeadNetwork
from outrider.models.llama.attention import Reach, attend, reach
from outrider.models.llama.base import cache_layout
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.rope import RotaryTable, rotate
from outrider.protocols import Cache, HiddenStates, LanguageModel, ModelInfo, Segment


@dataclass(frozen=True, slots=True)
class HeadInputs:
    """What the rows of one forward read beside their tokens.

    Attributes:
        states: `[rows, states, target]` the target's states, or None.
        outputs: `[rows, width]` outputs of the rows before, where `states` is None.
        hints: `[rows]` the hint of each row.
        levels: `[rows]` their levels.
    """

    states: Float[Tensor, "rows states target"] | None
    outputs: Float[Tensor, "rows width"] | None
    hints: NDArray[np.int32]
    levels: NDArray[np.int32]


_MEASURED_TEXT, _MEASURED_TURNS, _MEASURED_DEPTHS = 32, 6, (1, 3)
_READS = {HeadKind.HINTED: 64, HeadKind.EAGLE1: 256, HeadKind.FSPAD: 256}
"""The last tokens of a prompt that some heads read; hints follow from the whole text. So few cost
at most 1 % of the tokens of a round (docs/results.md)."""
_EVICTING = 64 << 20
"""Bytes that are more than the caches of most processors hold."""


class HeadModel:
    """A `LanguageModel` over the target's vocabulary, whose caches follow those of the target.

    Logits of tokens outside the draft vocabulary are minus infinity, except that of the hint.

    Attributes:
        config: shape of the head.
        info: description of the head.
        target: the model whose states it reads; it keeps the states of `config.states`.
        followers: a file of what followed which tokens in answers of the target
            (`memories.followers`), or None.
        reads: the last tokens of a prompt that caches begun from now on read; None: all of them.
    """

    followers: Path | None = None
    reads: int | None

    layered = segmented = chain_decoder = hidden_states = selector = embed = None

    def __init__(
        self,
        module: HeadNetwork[HeadShape],
        tensors: dict[str, Tensor],
        target: LanguageModel,
        name: str,
    ) -> None:
        assert target.hidden_states is not None  # `keeping_for` has made it
        self.module, self.config, self.target = module.eval(), module.config, target
        self._states: HiddenStates = target.hidden_states
        self._ids = tensors["ids"].long()
        self._table = successors_of(self.config, tensors)
        self.reads = _READS.get(self.config.kind)
        info = target.info
        self._layout = self._layout_for(module, torch.device(info.device))
        self.info = ModelInfo(
            name=name,
            vocab_size=info.vocab_size,
            context_length=info.context_length,
            find_fingerprint=lambda: f"{name} of {info.fingerprint}",
            find_bytes_per_token=lambda: self._layout.bytes_per_token,
            end_ids=info.end_ids,
            device=info.device,
            dtype=torch.float32,
            num_parameters=sum(p.numel() for p in module.parameters()),
            weight_bytes=4 * sum(p.numel() for p in module.parameters()),
        )

    def _layout_for(self, module: HeadNetwork[HeadShape], device: torch.device) -> CacheLayout:
        """Return the layout of its caches, and prepare what reads them."""
        assert isinstance(module, HeadModule)  # other kinds have models of their own
        layer = module.config.layer
        self._rotary = RotaryTable(layer.rope, torch.float32, device)
        return cache_layout(layer, torch.float32, device)

    # -- caches ---------------------------------------------------------------------------------

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> NoReturn:
        """Raise `StrategyError`: a head reads no text without its target."""
        raise StrategyError(
            f"the head {self.info.name} reads hidden states of its target, not a text alone",
            hint="Use it as a draft model of that target",
        )

    def follow(
        self, source: Cache, text: Sequence[int] = (), previous: Cache | None = None
    ) -> Following:
        """Return a cache that follows a cache of the target.

        Args:
            source: the cache of the target, of the model that keeps the states.
            text: the tokens that it will read, those of the target's text from the second one on.
            previous: a cache of this head; rows of the tokens with which `text` begins are kept.
        """
        if isinstance(previous, Following) and self._owns(previous):
            cache = previous
            cache.follow_again(source, self._fresh_hints(), text, self.reads)
        else:
            cache = self._fresh_cache()
            whole = (int(source.text[0]), *text)
            cache.follow(source, self._fresh_hints(), skipped_of(whole, self.reads))
        return cache

    def draft_seconds(self) -> float:
        """Measure the seconds of one more token of a chain.

        The weights of the target replace those of the head in the caches of the processor, so that
        the steps of a chain read them from memory. Another large array does so here.
        """
        [source] = self.target.start([Prompt(token_ids=(0,) * _MEASURED_TEXT)])
        cache = self.follow(source)
        cache.commit(source.text[1:])
        least = [float("inf")] * 2
        depths = [min(depth, cache.longest or depth) for depth in _MEASURED_DEPTHS]
        others = torch.zeros(min(self.target.info.weight_bytes or 0, _EVICTING), dtype=torch.uint8)
        for _ in range(_MEASURED_TURNS):
            for place, depth in enumerate(depths):
                others += 1
                begun = perf_counter()
                self._chain_of(cache, depth)
                least[place] = min(least[place], perf_counter() - begun)
                cache.commit(())
        shorter, longer = depths
        if shorter == longer:
            return least[0]
        return max((least[1] - least[0]) / (longer - shorter), 1e-7)

    def _chain_of(self, cache: Following, depth: int) -> None:
        """Draft a chain of a fixed token."""
        for place in range(depth):
            token = as_ids([0] if place else [])
            self.forward([Segment(cache, token)], [as_ids([place - 1])])

    def _owns(self, cache: Following) -> bool:
        return isinstance(cache, HeadCache) and cache.layout is self._layout

    def _fresh_cache(self) -> Following:
        return HeadCache(self._layout)

    def _fresh_hints(self) -> HintSource:
        return Hints(self._table)

    # -- forwards -------------------------------------------------------------------------------

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments one after the other.

        Rows whose parents are drafted in the same segment are read after them.

        Raises:
            ContextError: a token would lie beyond the context window.
            IndexError: the target has no states for a token of the text yet.
        """
        caches = [narrowed(s.cache, Following, self.info.name) for s in segments]
        return [self._read(*parts) for parts in zip(caches, segments, want, strict=True)]

    def _read(self, cache: Following, segment: Segment, want: IntArray) -> Rows:
        known = cache.num_speculative
        unread = 0 if cache.fed else len(cache.pending)
        feed = cache.feed(segment, want)
        wanted = {int(row): i for i, row in enumerate(feed.take)}
        logits = torch.full((len(feed.take), self.info.vocab_size), -torch.inf)
        hidden = torch.empty(len(feed.take), self.config.width)
        for first, last in _waves(feed, unread, known, cache):
            part = _part(feed, first, last)
            inputs = self._inputs(cache, first, last, unread, known)
            keep = [i for i in range(last - first) if first + i >= unread - 1]
            scores, outputs = self._run(cache, part, inputs, as_ids(keep))
            cache.outputs = torch.cat((cache.outputs.view(-1, self.config.width), outputs))
            for place, i in enumerate(keep):
                if (row := wanted.get(first + i)) is not None:
                    logits[row, self._ids] = scores[place]
                    hidden[row] = outputs[place]
                    self._add_hint(logits[row], outputs[place], inputs, i)
        return Rows(logits, hidden)

    def _add_hint(self, logits: Tensor, output: Tensor, inputs: HeadInputs, row: int) -> None:
        """Score the hint of a row, which may be outside the draft vocabulary."""
        hint = int(inputs.hints[row])
        if self.config.kind is HeadKind.HINTED and inputs.levels[row] and logits[hint] < -1e30:
            [weights] = self._states.head_rows([hint])
            logits[hint] = weights @ output

    def _inputs(
        self, cache: Following, first: int, last: int, unread: int, known: int
    ) -> HeadInputs:
        """Return what rows `first` to `last` of a feed read."""
        if first < unread:
            start = cache.offset + cache.length + first
            states = self._states.kept(cache.source, start, start + last - first)
            found = self._text_hints(cache, start, last - first)
            return HeadInputs(states, None, *found)
        rows = range(known + first - unread, known + last - unread)
        parents = [cache.parent(row) for row in rows]
        pairs = [
            (cache.speculative_token(p), cache.speculative_token(r))
            for p, r in zip(parents, rows, strict=True)
        ]
        outputs = cache.outputs[[parent + 1 for parent in parents]]
        return HeadInputs(None, outputs, *_found(cache.hints, pairs))

    def _text_hints(
        self, cache: Following, start: int, count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the hints of rows of the text, each with what is known up to its token."""
        if self.config.kind is not HeadKind.HINTED:
            none = np.zeros(count, dtype=np.int32)
            return none, none
        text, known = cache.source.text, cache.hinted
        end = start + count + 1
        words, levels = cache.hints.extend(text, known, end)
        cache.hinted = max(known, end)
        if known > start + 1:  # tokens that an earlier row has made known
            pairs = [(text[i - 1], text[i]) for i in range(start + 1, min(known, end))]
            again = _found(cache.hints, pairs)
            words, levels = np.concatenate((again[0], words)), np.concatenate((again[1], levels))
        return words[-count:], levels[-count:]

    def _run(
        self, cache: Following, feed: Feed, inputs: HeadInputs, keep: IntArray
    ) -> tuple[Tensor, Tensor]:
        """Read rows; return logits of the draft vocabulary and outputs of the rows `keep`."""
        assert isinstance(cache, HeadCache) and isinstance(self.module, HeadModule)
        module, tokens = self.module, torch.from_numpy(feed.tokens)
        cache.reserve(feed.start, feed.end)
        entered = (
            module.fused(inputs.states)
            if inputs.states is not None
            else module.continued(_given(inputs.outputs))
        )
        hints, levels = (torch.from_numpy(a).long() for a in (inputs.hints, inputs.levels))
        stream, read = module.enter(entered, tokens, hints, levels)
        seen, layer = reach(feed, cache, None), module.config.layer
        attended = self._attended(cache, feed, seen, module.project(read), layer)
        return module.answer(module.leave(stream, attended)[keep])

    def _attended(
        self,
        cache: HeadCache,
        feed: Feed,
        seen: Reach,
        projected: tuple[Tensor, Tensor, Tensor],
        layer: DecoderConfig,
        number: int = 0,
    ) -> Tensor:
        """Write keys and values of rows, for which the cache has space; return what they attend to.

        Args:
            cache: the cache.
            feed: the rows.
            seen: the slots that they read.
            projected: their queries, keys and values, not rotated.
            layer: the shape of the layer.
            number: the place of the layer in the cache.
        """
        queries, keys, values = projected
        places = torch.from_numpy(feed.positions)
        turns = self._rotary.at(places, int(feed.positions.max()) + 1)
        storage = cache.storage
        storage.keys[number][:, feed.start : feed.end] = rotate(keys, *turns).transpose(0, 1)
        storage.values[number][:, feed.start : feed.end] = values.transpose(0, 1)
        return attend(
            rotate(queries, *turns),
            storage.keys[number][:, seen.first : feed.end],
            storage.values[number][:, seen.first : feed.end],
            seen.mask,
            layer.attention_scale,
        )


def successors_of(config: HeadShape, tensors: dict[str, Tensor]) -> np.ndarray:
    """Return the table of hints of a head; without a table, no token has a hint of other texts."""
    table = tensors.get("successors")
    if table is None:
        return np.full(config.target_vocab, -1, dtype=np.int32)
    return np.ascontiguousarray(table.numpy(), dtype=np.int32)


def keeping_for(config: HeadShape, target: LanguageModel) -> LanguageModel:
    """Return the target with caches that keep the states which a head reads.

    Raises:
        StrategyError: the target cannot keep them.
        OptionError: it has no such states.
    """
    if target.hidden_states is None:
        raise StrategyError(
            f"{target.info.name} does not return hidden states, which a head reads",
            hint="Use a model that Outrider runs itself, or another drafter",
        )
    return target.hidden_states.keeping(config.states)


def _given(outputs: Tensor | None) -> Tensor:
    assert outputs is not None  # a row has states or an output before it
    return outputs


def _found(
    hints: HintSource, pairs: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the hint and the level of what follows each pair of tokens."""
    both = np.array([hints.find(*pair) for pair in pairs], dtype=np.int32).reshape(-1, 2)
    return both[:, 0].copy(), both[:, 1].copy()


def _waves(feed: Feed, unread: int, known: int, cache: Following) -> list[tuple[int, int]]:
    """Split the rows of a feed: first those of the text, then runs of drafted rows whose parents
    have been read before the run."""
    count = len(feed.tokens)
    waves = [(0, unread)] if unread else []
    first = unread
    while first < count:
        last = first + 1
        while last < count and cache.parent(known + last - unread) < known + first - unread:
            last += 1
        waves.append((first, last))
        first = last
    return waves


def _part(feed: Feed, first: int, last: int) -> Feed:
    """Return some rows of a feed as a feed of its own, without rows to return."""
    end = feed.start + last
    return replace(
        feed,
        tokens=feed.tokens[first:last],
        positions=feed.positions[first:last],
        start=feed.start + first,
        tree=None if feed.tree is None else feed.tree[first:last, : end - feed.base],
        take=feed.take[:0],
    )
