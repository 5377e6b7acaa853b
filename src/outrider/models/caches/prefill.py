"""Reads texts into caches in chunks: prompts, and new tokens between kept rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.errors import ContextError
from outrider.core.types import NO_IDS, IntArray, Prompt, as_ids
from outrider.models.caches.bookkeeping import CacheBook, Run
from outrider.protocols import Cache, CacheReport, LanguageModel, Segment

C = TypeVar("C", bound=CacheBook)

PREFILL_CHUNK = 512
"""Largest number of tokens of one text in one forward."""


@dataclass(slots=True)
class Reading:
    """The text that a cache will hold. The cache holds the beginning of it, or nothing.

    Attributes:
        cache: the cache.
        tokens: the whole text; its last token is not read.
        positions: `[len(tokens)]` places, or `[3, len(tokens)]`; None means the indices.
        embeddings: `[len(tokens), hidden]` to read instead of the ids.
        kept: rows further on that are in place or set aside, in order.
    """

    cache: CacheBook
    tokens: Sequence[int]
    positions: IntArray | None = None
    embeddings: Tensor | None = None
    kept: list[Run] = field(default_factory=list)

    def chunk(self) -> Segment | None:
        """Append the next chunk to the cache; return its segment, or None at the end."""
        cache = self.cache
        while self.kept and self.kept[0].start == cache.length:
            run = self.kept.pop(0)
            tokens = self.tokens[run.start : run.stop]
            cache.resume(run, tokens, self._places(run.start, run.stop))
        done = cache.length
        limit = self.kept[0].start if self.kept else len(self.tokens) - 1
        end = min(done + PREFILL_CHUNK, limit)
        if done >= end:
            return None
        self._extend(end, None if self.embeddings is None else self.embeddings[done:end])
        return Segment(cache, NO_IDS)

    def finish(self) -> None:
        """Append the last token as pending."""
        self._extend(len(self.tokens), None)

    def _extend(self, end: int, embeddings: Tensor | None) -> None:
        known = len(self.cache.text)
        self.cache.extend(self.tokens[known:end], self._given(known, end), embeddings)

    def _places(self, start: int, stop: int) -> IntArray:
        return np.arange(start, stop) if self.positions is None else self.positions[..., start:stop]

    def _given(self, start: int, stop: int) -> IntArray | None:
        return None if self.positions is None else self.positions[..., start:stop]


def read(model: LanguageModel, readings: Sequence[Reading]) -> None:
    """Read all but the last token of each text; one forward reads several texts."""
    while chunks := [(r.cache, s) for r in readings if (s := r.chunk()) is not None]:
        model.forward([segment for _, segment in chunks], [NO_IDS] * len(chunks))
        for cache, _ in chunks:
            cache.settle()
    for reading in readings:
        reading.finish()


def start_caches(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    reuse: Sequence[C | None] | None,
    make: Callable[[], C],
) -> list[C]:
    """Implement `LanguageModel.start` for caches built on `CacheBook`."""
    for prompt in prompts:
        check_prompt(model, prompt)
    firsts: dict[int, C] = {}
    readings: list[Reading] = []
    for i, prompt in enumerate(prompts):
        if id(prompt) in firsts:
            continue
        old = reuse[i] if reuse else None
        cache = make() if old is None else _cut_to_common(old, prompt) or make()
        cache.watched, cache.report = None, CacheReport()
        cache.expect(len(prompt))
        firsts[id(prompt)] = cache
        readings.append(Reading(cache, prompt.token_ids, _places(prompt), prompt.embeddings))
    read(model, readings)
    taken: set[int] = set()
    caches: list[C] = []
    for prompt in prompts:
        first = firsts[id(prompt)]
        caches.append(first.fork() if id(prompt) in taken else first)
        taken.add(id(prompt))
    return caches


def start_known(
    model: LanguageModel, text: Sequence[int], old: Cache | None
) -> tuple[Cache, IntArray]:
    """Start a cache with what `old` has read of a text, or with the first token only; return it and
    the ids that it lacks.

    This requires no forward: the last token in the cache is pending, and read with the next ones.
    """
    known = 0
    if old is not None:
        known = common_length(old.text[: len(old.text) - len(old.pending)], text)
    begin = Prompt(token_ids=tuple(text[: max(known, 1)]))
    [cache] = model.start([begin], [old])
    return cache, as_ids(text[len(begin) :])


def start_in_parts(model: LanguageModel, prompt: Prompt, rows: Callable[[], int]) -> Cache:
    """Start a cache as `LanguageModel.start` does, with a forward for each part of the prompt.

    Args:
        model: the model.
        prompt: one that can be read in parts (`ModelInfo.reads_in_parts`).
        rows: called before each forward; returns how many tokens it reads at most. An error that
            it raises ends the reading.

    Raises:
        ContextError: the model cannot read the prompt.
    """
    check_prompt(model, prompt)
    ids = as_ids(prompt.token_ids)
    cache, _ = start_known(model, prompt.token_ids[:1], None)
    done, known, end = 0, 1, len(ids) - 1  # rows of the cache, tokens of its text, all rows
    while done < end:
        stop = min(done + max(rows(), 1), end)
        if stop > known:
            cache.commit(ids[known:stop])
        model.forward([Segment(cache, NO_IDS)], [NO_IDS])
        done = known = stop
    if end:
        cache.commit(ids[end:])
    return cache


def note_reading(counters: Counters, cache: Cache, seconds: float) -> None:
    """Count a prompt read into `cache`; the time for encoding its images is counted separately."""
    report = cache.report
    counters.add_seconds(prefill=seconds - report.vision_seconds)
    if report.vision_seconds:
        counters.add_seconds(vision=report.vision_seconds)
    counters.reading = report.reading


def _places(prompt: Prompt) -> IntArray | None:
    """Return the places of the prompt's tokens, `[n]` or `[3, n]`; None means their indices."""
    given = prompt.positions if prompt.axes is None else prompt.axes
    return None if given is None else np.asarray(given, dtype=np.int64)


def check_prompt(model: LanguageModel, prompt: Prompt) -> None:
    """Raise `ContextError` for a prompt that the model cannot read.

    This is a prompt that is empty, leaves no space for an answer, or has unknown ids, positions
    that do not ascend, or axes that the model does not read.
    """
    if not len(prompt):
        raise ContextError("the prompt is empty", hint="Give at least one token, such as BOS")
    check_ids(model, prompt.token_ids, "the prompt")
    if prompt.embeddings is not None:
        _check_embeddings(model, prompt)
    if prompt.positions is not None and prompt.axes is None:
        _check_positions(model, prompt.token_ids, prompt.positions)
        return
    if prompt.axes is not None:
        _check_axes(model, prompt.token_ids, prompt.axes)
    over = len(prompt) + 1 - model.info.context_length
    if over > 0:
        raise ContextError(
            f"the prompt has {len(prompt)} tokens; model {model.info.name} reads at most "
            f"{model.info.context_length}, one of them for the answer",
            hint=f"Shorten the prompt by {over} token{'s' if over > 1 else ''}",
        )


def check_ids(model: LanguageModel, ids: Sequence[int], what: str) -> None:
    """Raise `ContextError` for ids outside the model's vocabulary."""
    low, high = min(ids), max(ids)
    if low < 0 or high >= model.info.vocab_size:
        raise ContextError(
            f"{what} holds token {low if low < 0 else high}; model {model.info.name} has ids "
            f"from 0 to {model.info.vocab_size - 1}",
            hint="Encode the prompt with the tokenizer of this model",
        )


def _check_positions(model: LanguageModel, ids: Sequence[int], positions: Sequence[int]) -> None:
    if len(positions) != len(ids):
        raise ContextError(
            f"the prompt has {len(ids)} tokens, but {len(positions)} positions",
            hint="Give one position for each token id, or none at all",
        )
    places = as_ids(positions)
    back = np.flatnonzero(np.diff(places) <= 0)
    if len(back) or places[0] < 0:
        found = f"{places[back[0]]}, {places[back[0] + 1]}" if len(back) else str(places[0])
        raise ContextError(
            f"positions must ascend from 0 on, got {found}",
            hint="Give each token its index in the whole text, in ascending order",
        )
    if places[-1] + 1 >= model.info.context_length:
        raise ContextError(
            f"the prompt's last token is at position {places[-1]}; model {model.info.name} reads "
            f"at most {model.info.context_length} positions, one of them for the answer",
            hint="Use positions without gaps, or a model with a larger context",
        )


def _check_axes(model: LanguageModel, ids: Sequence[int], axes: Sequence[Sequence[int]]) -> None:
    if not model.info.reads_axes:
        raise ContextError(
            f"model {model.info.name} reads one position for each token, but the prompt has three",
            hint="Use the positions that this model's processor returns",
        )
    if len(axes) != 3 or any(len(axis) != len(ids) for axis in axes):
        given = ", ".join(str(len(axis)) for axis in axes)
        raise ContextError(
            f"the prompt has {len(ids)} tokens, but axes of {given or 'no'} positions",
            hint="Give each token a position in time, height and width",
        )
    places = np.asarray(axes, dtype=np.int64)
    last = places[:, -1].tolist()
    if len(set(last)) > 1:
        raise ContextError(
            f"the prompt's last token has several positions: {last}",
            hint="End the prompt with text after the last image",
        )
    low, high = int(places.min()), int(places.max())
    if low < 0 or high + 1 >= model.info.context_length:
        raise ContextError(
            f"the prompt has a token at position {low if low < 0 else high}; model "
            f"{model.info.name} reads {model.info.context_length} positions from 0, one of them "
            "for the answer",
            hint="Use smaller or fewer images, or a model with a larger context",
        )


def _check_embeddings(model: LanguageModel, prompt: Prompt) -> None:
    embed = model.embed
    if embed is None:
        raise ContextError(f"model {model.info.name} reads token ids only, not embeddings")
    assert prompt.embeddings is not None
    given = tuple(prompt.embeddings.shape)
    expected = (len(prompt), embed(prompt.token_ids[:1]).shape[-1])
    if given != expected:
        raise ContextError(
            f"the prompt's embeddings have shape {given}; model {model.info.name} expects "
            f"{expected}",
            hint="Give one row for each token id, as wide as the model",
        )


def common_length(a: Sequence[int] | IntArray, b: Sequence[int] | IntArray) -> int:
    """Return the length of the common beginning of two texts."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(as_ids(a[:size]) != as_ids(b[:size]))
    return int(differ[0]) if len(differ) else size


def _cut_to_common(cache: C, prompt: Prompt) -> C | None:
    """Cut `cache` to the prefix that it shares with `prompt`; None if there is none."""
    if prompt.embeddings is not None:
        return None
    shared = common_length(cache.text, prompt.token_ids)
    places = _places(prompt)
    moved = cache.places.differ(np.arange(shared) if places is None else places[..., :shared])
    shared = int(moved[0]) if len(moved) else shared
    shared = cache.usable(shared)
    if not shared:
        return None
    cache.truncate(min(shared, cache.length + 1))
    return cache
