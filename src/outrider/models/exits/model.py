"""A model whose tokens leave it after the first layers that are sure of the next one.

S2D (Kavehzadeh et al. 2024, arXiv 2407.01955). All exits share the final norm and the output head.
A token that leaves early has no keys and values in deeper layers. Its hidden state at the exit is
stored beside its keys and values; when a later token goes deeper, all rows that those layers lack
are read in one call (catch-up). So the cache holds a different number of rows for each segment of
layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from outrider.core.errors import StrategyError
from outrider.core.layers import Exits, check_thresholds, even_exits
from outrider.core.types import NO_IDS, IntArray, Prompt, Rows
from outrider.models.caches.kv_cache import DecoderCache
from outrider.models.caches.narrowing import narrowed
from outrider.models.caches.prefill import PREFILL_CHUNK, common_length
from outrider.models.llama.base import OwnModel
from outrider.protocols import Cache, LanguageModel, Segment


@dataclass(slots=True)
class ExitWork:
    """What the segments of layers between exits have done, over all requests.

    Attributes:
        left: how many wanted rows left at each exit.
        rows: how many rows each segment has read.
        calls: how many forwards each segment has run.
    """

    left: list[int]
    rows: list[int]
    calls: list[int]

    @classmethod
    def none(cls, exits: int) -> "ExitWork":
        """Return a record without work."""
        return cls([0] * exits, [0] * exits, [0] * exits)

    def clear(self) -> None:
        """Count from 0 again."""
        for counts in (self.left, self.rows, self.calls):
            counts[:] = [0] * len(counts)


@dataclass(slots=True)
class _Depths:
    """How many rows of a cache each segment has read.

    Attributes:
        rows: number of rows, from the first on, that the segment has read.
        sound: up to this slot, rows do not move when the speculative rows of the last forward are
            committed: all rows of a chain, and the text before a tree.
    """

    rows: list[int]
    sound: int = 0

    def cut(self, end: int) -> None:
        """Count the first `end` rows at most."""
        self.rows = [min(rows, end) for rows in self.rows]

    def read(self, cache: DecoderCache) -> None:
        """Take note that all rows of `cache` have been read up to the first exit."""
        self.rows[0] = cache.rows
        self.sound = cache.rows if cache.is_chain else len(cache.text)


@dataclass(slots=True)
class _Place:
    """One text in a forward: its cache, its record, the slots that are wanted, their results."""

    cache: DecoderCache
    depths: _Depths
    wanted: IntArray
    rows: Rows = field(default_factory=lambda: Rows(torch.empty(0, 0)))


class ExitModel:
    """A `LanguageModel` around one that Outrider runs, with early exits.

    In a forward, the wanted rows of a text leave together, at the first exit where one of them has
    a token with a probability above the threshold (at temperature 1): for a chain, that is the row
    of the newest token; for a tree, the level that grows. Other rows stay at the first exit until a
    later forward needs them.

    Args:
        model: the model.
        exits: after which layers tokens may leave; None: those that the model was trained for,
            else thirds of its layers.
        thresholds: one for each exit but the last, or one number for all. 0 always leaves at the
            first exit, 1 at the last.

    Attributes:
        work: counts of what was run.

    Raises:
        StrategyError: a model that Outrider does not run itself.
        OptionError: exits or thresholds that do not fit the model.
    """

    layered = segmented = chain_decoder = hidden_states = selector = embed = None

    def __init__(
        self,
        model: LanguageModel,
        *,
        exits: Exits | None = None,
        thresholds: float | Sequence[float] = 0.5,
    ) -> None:
        if not isinstance(model, OwnModel):
            raise StrategyError(
                f"{model.info.name} has no early exits that can be caught up with",
                hint="Use a draft model that Outrider runs itself",
            )
        self.exits = exits or model.info.exits or even_exits(model.num_layers)
        self.exits.check(model.num_layers, model.info.name)
        layers = self.exits.layers
        if isinstance(thresholds, int | float):
            thresholds = (float(thresholds),) * (len(layers) - 1)
        self.thresholds = tuple(thresholds)
        check_thresholds(self.thresholds, len(layers))
        self._whole = model.keeping(layers[:-1])
        firsts = (0, *layers[:-1])
        self._parts = [
            self._whole.segment(first, last) for first, last in zip(firsts, layers, strict=True)
        ]
        names = ",".join(map(str, layers))
        self.info = replace(self._whole.info, name=f"{model.info.name} (exits {names})")
        self.work = ExitWork.none(len(layers))
        self._known: WeakKeyDictionary[Cache, _Depths] = WeakKeyDictionary()

    def read(self, cache: Cache) -> tuple[int, ...]:
        """Return how many rows of a cache, from the first on, each segment has read."""
        return tuple(self._current(narrowed(cache, DecoderCache, self.info.name)).rows)

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> Sequence[Cache]:
        """Read the prompts up to the first exit. Raises `ContextError`."""
        for old, prompt in zip(reuse or (), prompts, strict=bool(reuse)):
            if old is not None and (depths := self._known.get(old)) is not None:
                depths.cut(_unchanged(narrowed(old, DecoderCache, self.info.name), prompt))
        caches = self._parts[0].start(prompts, reuse)
        for cache in caches:
            own = narrowed(cache, DecoderCache, self.info.name)
            depths = self._known.setdefault(own, _Depths([0] * len(self._parts)))
            self.work.rows[0] += own.rows - depths.rows[0]
            depths.read(own)
        return caches

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments up to the first exit, then those that are not sure up to deeper ones.

        `hidden` is the normed state at the exit where a row has left.

        Raises:
            ContextError: a token would lie beyond the context window.
        """
        caches = [narrowed(s.cache, DecoderCache, self.info.name) for s in segments]
        depths = [self._current(cache) for cache in caches]
        before = sum(cache.rows for cache in caches)
        found = self._parts[0].forward(segments, want)
        self._note(0, sum(cache.rows for cache in caches) - before)
        places = [
            _Place(cache, depth, _slots(cache, rows), result)
            for cache, depth, rows, result in zip(caches, depths, want, found, strict=True)
        ]
        for place in places:
            place.depths.read(place.cache)
        unsure = [place for place in places if len(place.wanted)]
        for level in range(len(self._parts)):
            if level:
                self._deepen(level, unsure)
            unsure = [place for place in unsure if not self._leaves(level, place)]
        return [place.rows for place in places]

    def _leaves(self, level: int, place: _Place) -> bool:
        """Whether the wanted rows leave at this exit; logits that are not finite do."""
        last = level == len(self.thresholds)
        leaves = last or not _confidence(place.rows.logits) <= self.thresholds[level]
        self.work.left[level] += len(place.wanted) * leaves
        return leaves

    def _deepen(self, level: int, places: Sequence[_Place]) -> None:
        """Run one segment on all rows that it lacks, in parts; the last part holds the results."""
        waiting = list(places)
        while waiting:
            plans = [self._plan(level, place) for place in waiting]
            segments = [Segment(place.cache, NO_IDS) for place in waiting]
            found = self._parts[level].forward(segments, plans)
            for place, rows in zip(waiting, found, strict=True):
                place.rows = rows
            waiting = [p for p in waiting if p.depths.rows[level] < p.cache.rows]

    def _plan(self, level: int, place: _Place) -> IntArray:
        """Plan the next rows of one text; return which of them are wanted."""
        cache, start = place.cache, place.depths.rows[level]
        stop = min(start + PREFILL_CHUNK, cache.rows)
        if stop < cache.rows:  # the wanted rows are among the last ones
            stop = min(stop, int(place.wanted.min()))
        stop = cache.rows if stop <= start else stop
        take = place.wanted if stop == cache.rows else NO_IDS
        cache.replay(start, stop, self.exits.layers[level - 1], take)
        place.depths.rows[level] = stop
        self._note(level, stop - start)
        return take

    def _note(self, level: int, rows: int) -> None:
        self.work.rows[level] += rows
        self.work.calls[level] += 1

    def _current(self, cache: DecoderCache) -> _Depths:
        """Return the record of a cache; rows that were dropped or moved since are not read.

        A cache without record, such as a fork, is taken as read up to the first exit.
        """
        depths = self._known.setdefault(cache, _Depths([0] * len(self._parts)))
        depths.cut(cache.rows if cache.fed else min(cache.rows, depths.sound))
        return depths


def _unchanged(cache: DecoderCache, prompt: Prompt) -> int:
    """Return how many rows of a cache stay when it continues with `prompt`."""
    if not prompt.plain:
        return 0
    return min(cache.length, common_length(cache.text, prompt.token_ids))


def _slots(cache: DecoderCache, rows: IntArray) -> IntArray:
    """Return the slots of rows that are numbered since the last commit; -1 ends the text."""
    return len(cache.text) + np.asarray(rows, dtype=np.int64)


def _confidence(logits: Tensor) -> float:
    """Return the largest probability of any token in any row."""
    scores = logits.float()
    return float((scores.amax(dim=-1) - scores.logsumexp(dim=-1)).exp().max())
