"""APCE as a model: read the chunks that matter, look again while writing, swap them in and out.

Adaptive Progressive Context Expansion (arXiv 2510.12051). Whatever can run a language model can run
one that selects: a target, a qualifier or a draft model. On the target the text is that of a model
that has read less; below it, the text can not change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import Any

from jaxtyping import Float
from torch import Tensor

from outrider.context.cache import SelectedCache
from outrider.context.config import ContextConfig
from outrider.context.layout import Spans, pieces_between, selected_prompt, spans_of
from outrider.context.ranking import Ranker
from outrider.context.reading import Reading
from outrider.context.selection import Selection
from outrider.errors import ContextError, OptionError
from outrider.layers import LayerSet
from outrider.protocols import (
    Cache,
    ContextSelector,
    LanguageModel,
    Layered,
    Segment,
    Segmented,
)
from outrider.sampling import Sampler
from outrider.types import IntArray, LongContext, Prompt, Rows

_NEEDS_ROWS = ("new_only", "partial")
"""Ways to swap in which rows stay behind others that change."""

_ROOM_FOR_TEXT = 4
"""A prompt takes at most all but a fourth of the window: what remains is for the answer."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one prompt will be read.

    Attributes:
        compact: positions are numbered without gaps.
        fixed: tokens that are always held: head and instruction.
        room: most tokens that all chosen chunks may have together.
    """

    compact: bool
    fixed: int
    room: int


@dataclass(frozen=True, slots=True)
class _Change:
    """A cache, the spans it holds and is to hold, and ids of the whole text by place."""

    cache: SelectedCache
    before: Spans
    after: Spans
    whole: Sequence[int]


class Selected:
    """A `LanguageModel` around `inner` that reads a selection of `Prompt.context`.

    Prompts without a long input are read by `inner` as they are. Made by `select`, which keeps
    what else the model inside can do.

    Args:
        inner: the model that reads.
        ranker: scores chunks.
        config: how many are read, and how often that is thought over.

    Raises:
        OptionError: the model can not do what `config` asks for.
    """

    def __init__(self, inner: LanguageModel, ranker: Ranker, config: ContextConfig) -> None:
        _check(inner, config)
        self.inner = inner
        self.ranker = ranker
        self.config = config
        self.name = inner.name
        self.vocab_size, self.context_length = inner.vocab_size, inner.context_length
        self.bytes_per_token: int = getattr(inner, "bytes_per_token", 0)
        self.end_ids: tuple[int, ...] = getattr(inner, "end_ids", ())
        self.generation_defaults: dict[str, Any] = getattr(inner, "generation_defaults", {})

    @property
    def fingerprint(self) -> str:
        """That of the model inside."""
        return self.inner.fingerprint

    # -- choosing ---------------------------------------------------------------------------

    def reads(self, prompt: Prompt) -> int:
        """Places of the window that `prompt` takes, at most. Raises `ContextError` where `start`
        would."""
        if prompt.context is None:
            return len(prompt)
        plan = self._plan(prompt, prompt.context)
        self._selection(prompt.context, plan).check()
        return plan.fixed + plan.room if plan.compact else len(prompt)

    def selection(self, prompt: Prompt) -> Selection:
        """What would be read of `prompt` first, without reading it.

        Raises:
            ContextError: it has no long input, or not even the instruction fits.
        """
        if prompt.context is None:
            raise ContextError(
                "the prompt has no long input to select from", hint="Set Prompt.context"
            )
        return self._choose(prompt.context, self._plan(prompt, prompt.context))

    def _choose(self, context: LongContext, plan: _Plan) -> Selection:
        selection = self._selection(context, plan)
        selection.begin()
        return selection

    def _selection(self, context: LongContext, plan: _Plan) -> Selection:
        return Selection(context, self.ranker.index(context), self.config, plan.room)

    def _plan(self, prompt: Prompt, context: LongContext) -> _Plan:
        _check_prompt(prompt, context)
        fixed = len(prompt) - context.num_tokens
        compact = self._is_compact(prompt)
        room = context.num_tokens
        if not self.config.growth:
            sizes = sorted((len(chunk) for chunk in context.chunks), reverse=True)
            room = sum(sizes[: max(self.config.kept(len(sizes)), len(context.pinned))])
        if self.config.budget is not None:
            mend = f"Raise the budget above {fixed} tokens"
            room = min(room, self._within(self.config.budget, fixed, "the budget", mend))
        if compact:
            window = self.context_length - self.context_length // _ROOM_FOR_TEXT
            what, mend = f"what {self.name} reads", "Use a model with a larger context"
            room = min(room, self._within(window, fixed, what, mend))
        return _Plan(compact, fixed, room)

    @staticmethod
    def _within(limit: int, fixed: int, what: str, mend: str) -> int:
        if fixed >= limit:
            raise ContextError(
                f"the instruction takes {fixed} tokens, and {what} is limited to {limit}",
                hint=f"{mend}, or shorten the instruction",
            )
        return limit - fixed

    def _is_compact(self, prompt: Prompt) -> bool:
        if self.config.positions != "auto":
            return self.config.positions == "compact"
        if self.config.recompute in _NEEDS_ROWS:
            return False
        gaps = isinstance(self.inner, Segmented) and self.inner.reads_gaps
        window = self.context_length - self.context_length // _ROOM_FOR_TEXT
        return not gaps or len(prompt) > window

    # -- reading ----------------------------------------------------------------------------

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Any]:
        """Choose, and read what is chosen; one cache a prompt. Raises `ContextError`."""
        old = None if reuse is None else [_unwrapped(cache) for cache in reuse]
        firsts: dict[int, tuple[Selection, _Plan, Prompt, float]] = {}
        for prompt in prompts:
            if prompt.context is not None and id(prompt) not in firsts:
                begun = perf_counter()
                plan = self._plan(prompt, prompt.context)
                chosen = self._choose(prompt.context, plan)
                spans = spans_of(prompt.context, chosen.chosen, len(prompt))
                part = selected_prompt(prompt, spans, compact=plan.compact)
                firsts[id(prompt)] = (chosen, plan, part, perf_counter() - begun)
        parts = [firsts[id(p)][2] if id(p) in firsts else p for p in prompts]
        caches: list[Any] = self.inner.start(parts, old)
        for i, prompt in enumerate(prompts):
            if id(prompt) in firsts:
                caches[i] = self._wrapped(caches[i], prompt, *firsts[id(prompt)])
        return caches

    def _wrapped(
        self,
        cache: Any,
        prompt: Prompt,
        selection: Selection,
        plan: _Plan,
        part: Prompt,
        seconds: float,
    ) -> SelectedCache:
        own = selection.fork()
        reading = Reading(
            selection=own,
            selector=self.ranker.name,
            encoder=self.ranker.encoder_name,
            prompt_tokens=len(prompt),
            bytes_per_token=self.bytes_per_token,
            select_seconds=seconds,
        )
        return SelectedCache(
            cache,
            prompt,
            own,
            reading,
            compact=plan.compact,
            longest=plan.fixed + plan.room,
            every=self._interval(selection),
        )

    def _interval(self, selection: Selection) -> int:
        """Generated tokens between two looks; 0 where another one can change nothing."""
        context = selection.context
        is_full = len(selection.chosen) + len(context.banned) >= len(context.chunks)
        may_change = self.ranker.refreshes or self.config.growth
        return self.config.refresh if may_change and not is_full else 0

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments; caches whose look is due are refreshed before."""
        caches = [segment.cache for segment in segments]
        self.refresh(caches)
        rows = self.inner.forward([_opened(segment) for segment in segments], want)
        _note_rows(segments)
        return rows

    def write(
        self,
        segments: Sequence[Segment],
        samplers: Sequence[Sampler],
        generated: Sequence[Sequence[int]],
        depths: Sequence[int],
        confidence: float = 0.0,
    ) -> list[IntArray] | None:
        """As `protocols.Writer`; None where the model inside can not."""
        write = getattr(self.inner, "write", None)
        if write is None:
            return None
        self.refresh([segment.cache for segment in segments])
        opened = [_opened(segment) for segment in segments]
        written: list[IntArray] | None = write(opened, samplers, generated, depths, confidence)
        _note_rows(segments)
        return written

    # -- looking again ----------------------------------------------------------------------

    def refresh(self, caches: Sequence[Any]) -> None:
        """Look again at what is due, and swap where that pays; what is to be read for all of them
        shares its forwards.

        The chunks that go are freed before others are read. Between two rounds only: speculative
        rows are forgotten.
        """
        due = [c for c in caches if isinstance(c, SelectedCache) and c.horizon == 0]
        if not due:
            return
        begun = perf_counter()
        self._rearrange([change for cache in due if (change := self._look(cache)) is not None])
        for cache in due:
            cache.reading.refresh_seconds += perf_counter() - begun

    def _look(self, cache: SelectedCache) -> _Change | None:
        """What a cache is to hold from now on; None where that does not change."""
        before, whole = cache.spans, cache.whole
        due, recent = cache.recent()
        look = cache.selection.look(due, recent)
        cache.looked(due)
        if not look.admitted and not look.evicted:
            return None
        after = spans_of(cache.selection.context, look.chosen, len(whole))
        return _Change(cache, before, after, whole)

    def _rearrange(self, changes: Sequence[_Change]) -> None:
        texts = [
            pieces_between(c.before, c.after, c.whole, self.config, compact=c.cache.compact)
            for c in changes
        ]
        if not isinstance(self.inner, Segmented):
            for change in changes:
                self._read_again(change)
        elif changes:
            self.inner.rearrange([change.cache.inner for change in changes], texts)
        for change, pieces in zip(changes, texts, strict=True):
            change.cache.note_swap(pieces)

    def _read_again(self, change: _Change) -> None:
        """Read the new text from the first change on, as a new prompt."""
        cache, whole = change.cache, Prompt(token_ids=tuple(change.whole))
        text = selected_prompt(whole, change.after, compact=cache.compact)
        [cache.inner] = self.inner.start([text], [cache.inner])


class SelectedLayered(Selected):
    """The same around a model that drafts with its own layers (`protocols.Layered`)."""

    inner: Any

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return self.inner.num_layers

    def subset(self, layers: LayerSet) -> LanguageModel:
        """A part of the model inside: it reads what the whole one has selected."""
        return self.inner.subset(layers)

    def borrow(self, cache: Cache) -> Cache:
        """A cache over the committed rows of `cache`."""
        return self.inner.borrow(_unwrapped(cache))

    def watch(self, cache: Cache, on: bool) -> None:
        """Whether forwards over `cache` return `Rows.streams` from now on."""
        self.inner.watch(_unwrapped(cache), on)

    def read_out(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """The final norm and the head over residual streams."""
        return self.inner.read_out(states)


def select(model: LanguageModel, ranker: Ranker, config: ContextConfig) -> Selected:
    """`model`, reading only what `ranker` finds to matter. Raises `OptionError`."""
    kind = SelectedLayered if isinstance(model, Layered) else Selected
    return kind(model, ranker, config)


def _unwrapped(cache: Any) -> Any:
    return cache.inner if isinstance(cache, SelectedCache) else cache


def _opened(segment: Segment) -> Segment:
    if not isinstance(segment.cache, SelectedCache):
        return segment
    return Segment(segment.cache.inner, segment.tokens, segment.parents)


def _note_rows(segments: Sequence[Segment]) -> None:
    for segment in segments:
        if isinstance(segment.cache, SelectedCache):
            segment.cache.note_rows()


def _check_prompt(prompt: Prompt, context: LongContext) -> None:
    """Raise `ContextError` unless `context` is a part of `prompt` that has an end."""
    begin, end = context.start, context.start + context.num_tokens
    chunks = chain.from_iterable(chunk.token_ids for chunk in context.chunks)
    if begin < 0 or prompt.token_ids[begin:end] != tuple(chunks):
        raise ContextError(
            f"the chunks of the long input are not what the prompt holds at {begin} to {end}",
            hint="Let LongContext.start be where the ids of the first chunk begin in the prompt",
        )
    if end == len(prompt):
        raise ContextError(
            "nothing follows the long input",
            hint="Let the prompt end with an instruction, at least one token, after the chunks",
        )
    if prompt.embeddings is not None or prompt.positions is not None:
        raise ContextError(
            "the prompt has a long input, and embeddings or positions of its own",
            hint="Give a prompt that is to be read in parts as token ids alone",
        )


def _check(model: LanguageModel, config: ContextConfig) -> None:
    if isinstance(model, ContextSelector):
        raise OptionError(
            f"{model.name} selects what it reads already",
            hint="Select from the model inside, `inner`",
        )
    segmented = isinstance(model, Segmented)
    if config.recompute in _NEEDS_ROWS and not segmented:
        raise OptionError(
            f"recompute is {config.recompute!r}, and {model.name} can only read a text on from a "
            "beginning",
            hint="Use recompute 'suffix'",
        )
    if config.recompute in _NEEDS_ROWS and config.positions == "compact":
        raise OptionError(
            f"recompute is {config.recompute!r}, and positions are 'compact': what stays would "
            "have to turn to other positions",
            hint="Use positions 'original', or recompute 'suffix'",
        )
    if config.positions == "original" and not (segmented and model.reads_gaps):
        raise OptionError(
            f"positions are 'original', and {model.name} reads no gaps between positions",
            hint="Use positions 'compact'",
        )
