"""APCE as a model: read the chunks that matter, look again while writing, swap them in and out.

Adaptive Progressive Context Expansion (arXiv 2510.12051). Whatever can run a language model can run
one that selects: a target, a qualifier or a draft model. On the target the text is that of a model
that has read less; below it, the text can not change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from outrider.context.cache import SelectedCache
from outrider.context.config import ContextConfig
from outrider.context.layout import Spans, pieces_between, selected_prompt, spans_of
from outrider.context.plan import Plan, check_model, plan_for
from outrider.context.rankers.ranking import Ranker
from outrider.context.reading import Reading
from outrider.context.selection import Selection
from outrider.core.errors import ContextError
from outrider.core.types import IntArray, LongContext, Prompt, Rows
from outrider.models.wrappers.layered import LayeredAround
from outrider.protocols import Cache, ChainRequest, LanguageModel, Layered, Segment, Segmented


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a prompt is read as: the choice, the tokens that makes, and what choosing took."""

    selection: Selection
    plan: Plan
    part: Prompt
    seconds: float


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
        check_model(inner, config)
        self.inner = inner
        self.ranker = ranker
        self.config = config
        self.name = inner.name
        self.vocab_size, self.context_length = inner.vocab_size, inner.context_length
        self.bytes_per_token: int = getattr(inner, "bytes_per_token", 0)
        self.end_ids: tuple[int, ...] = getattr(inner, "end_ids", ())
        self.generation_defaults: dict[str, Any] = getattr(inner, "generation_defaults", {})
        self.unspoken: frozenset[int] = getattr(inner, "unspoken", frozenset())

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
        return plan.longest if plan.compact else len(prompt)

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

    def _choose(self, context: LongContext, plan: Plan) -> Selection:
        selection = self._selection(context, plan)
        selection.begin()
        return selection

    def _selection(self, context: LongContext, plan: Plan) -> Selection:
        return Selection(context, self.ranker.index(context), self.config, plan.room)

    def _plan(self, prompt: Prompt, context: LongContext) -> Plan:
        return plan_for(prompt, context, self.inner, self.config)

    # -- reading ----------------------------------------------------------------------------

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Any]:
        """Choose, and read what is chosen; one cache a prompt. Raises `ContextError`."""
        old = None if reuse is None else [_unwrapped(cache) for cache in reuse]
        once = {id(prompt): prompt for prompt in prompts}.values()
        choices = {id(p): self._choice(p, p.context) for p in once if p.context is not None}
        parts = [choices[id(p)].part if id(p) in choices else p for p in prompts]
        caches: list[Any] = self.inner.start(parts, old)
        for i, prompt in enumerate(prompts):
            if id(prompt) in choices:
                caches[i] = self._wrapped(caches[i], prompt, choices[id(prompt)])
        return caches

    def _choice(self, prompt: Prompt, context: LongContext) -> _Choice:
        begun = perf_counter()
        plan = self._plan(prompt, context)
        selection = self._choose(context, plan)
        spans = spans_of(context, selection.chosen, len(prompt))
        part = selected_prompt(prompt, spans, compact=plan.compact)
        return _Choice(selection, plan, part, perf_counter() - begun)

    def _wrapped(self, cache: Any, prompt: Prompt, choice: _Choice) -> SelectedCache:
        own = choice.selection.fork()
        reading = Reading(
            selection=own,
            selector=self.ranker.name,
            encoder=self.ranker.encoder_name,
            prompt_tokens=len(prompt),
            bytes_per_token=self.bytes_per_token,
            select_seconds=choice.seconds,
        )
        return SelectedCache(
            cache,
            prompt,
            own,
            reading,
            compact=choice.plan.compact,
            longest=choice.plan.longest,
            every=self._interval(own),
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
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """As `protocols.Writer`; None where the model inside can not."""
        write = getattr(self.inner, "write", None)
        if write is None:
            return None
        self.refresh([chain.segment.cache for chain in chains])
        opened = [replace(chain, segment=_opened(chain.segment)) for chain in chains]
        written: list[IntArray] | None = write(opened, confidence)
        _note_rows([chain.segment for chain in chains])
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
        cache.note_look(due)
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


class SelectedLayered(LayeredAround, Selected):
    """The same around a model that drafts with its own layers (`protocols.Layered`)."""

    inner: Any

    def _inside(self, cache: Cache) -> Cache:
        return _unwrapped(cache)


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
