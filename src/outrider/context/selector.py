"""APCE as a model: reads the relevant chunks, and swaps chunks during generation.

Adaptive Progressive Context Expansion (arXiv 2510.12051). Any language model can be wrapped: a
target, a qualifier or a draft model. A wrapped target writes the text of a model that has read
less; below the target, the text does not change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from outrider.context.cache import SelectedCache
from outrider.context.config import ContextConfig
from outrider.context.layout import Spans, pieces_between, selected_prompt, spans_of
from outrider.context.plan import Plan, check_model, plan_for
from outrider.context.rankers.ranking import Ranker
from outrider.context.reading import Reading
from outrider.context.selection import Selection
from outrider.core.errors import ContextError
from outrider.core.types import IntArray, LongContext, Prompt, Rows
from outrider.models.wrappers.passing import ChainsInside, ModelWrapper, opened_segment
from outrider.protocols import Cache, ChainDecoder, ChainRequest, LanguageModel, Segment


@dataclass(frozen=True, slots=True)
class _Choice:
    """The choice for a prompt, the resulting prompt, and the seconds for choosing."""

    selection: Selection
    plan: Plan
    part: Prompt
    seconds: float


@dataclass(frozen=True, slots=True)
class _Change:
    """A cache, its current and its wanted spans, and ids of the whole text by place."""

    cache: SelectedCache
    before: Spans
    after: Spans
    whole: Sequence[int]


class Selected(ModelWrapper):
    """A `LanguageModel` around `inner` that reads a selection of `Prompt.context`.

    Prompts without a long input are read by `inner` unchanged. All other capabilities of the inner
    model are kept, except rearranging caches, which is used for swaps.

    Args:
        inner: the model that reads the selected tokens.
        ranker: scores chunks.
        config: how many chunks are read, and how often the selection is refreshed.

    Raises:
        OptionError: the model does not support `config`.
    """

    def __init__(self, inner: LanguageModel, ranker: Ranker, config: ContextConfig) -> None:
        check_model(inner, config)
        super().__init__(inner, inner.info, _unwrapped)
        self.ranker = ranker
        self.config = config
        self.selector = self
        self.segmented = None
        if inner.chain_decoder is not None:
            self.chain_decoder = _SelectedChains(self, inner.chain_decoder)

    # -- selection --------------------------------------------------------------------------

    def reads(self, prompt: Prompt) -> int:
        """Return the largest number of places that `prompt` takes.

        Raises `ContextError` if `start` would.
        """
        if prompt.context is None:
            return len(prompt)
        plan = self._plan(prompt, prompt.context)
        self._selection(prompt.context, plan).check()
        return plan.longest if plan.compact else len(prompt)

    def selection(self, prompt: Prompt) -> Selection:
        """Return the first selection for `prompt`, without reading it.

        Raises:
            ContextError: the prompt has no long input, or the instruction does not fit.
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
        return Selection(context, self.ranker.index(context), self.config, plan.chunk_budget)

    def _plan(self, prompt: Prompt, context: LongContext) -> Plan:
        return plan_for(prompt, context, self.inner, self.config)

    # -- reading ----------------------------------------------------------------------------

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Cache]:
        """Choose chunks and read them; return one cache for each prompt. Raises `ContextError`."""
        old = None if reuse is None else [cache and _unwrapped(cache) for cache in reuse]
        once = {id(prompt): prompt for prompt in prompts}.values()
        choices = {id(p): self._choice(p, p.context) for p in once if p.context is not None}
        parts = [choices[id(p)].part if id(p) in choices else p for p in prompts]
        caches = list(self.inner.start(parts, old))
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
        if prompt.contrast is not None and self.inner.info.guidance is not None:
            part = replace(part, contrast=self._contrast(prompt.contrast, context, selection))
        return _Choice(selection, plan, part, perf_counter() - begun)

    def _contrast(self, other: Prompt, context: LongContext, chosen: Selection) -> Prompt:
        """Return the selected part of the other prompt of guidance: with the chunks that are chosen
        for the first one if both have the same, so that only the instructions differ."""
        own = other.context
        if own is None:
            return other
        plan = self._plan(other, own)
        chunks = [one.token_ids for one in own.chunks]
        same = chunks == [one.token_ids for one in context.chunks]
        picked = chosen if same else self._choose(own, plan)
        return selected_prompt(
            other, spans_of(own, picked.chosen, len(other)), compact=plan.compact
        )

    def _wrapped(self, cache: Cache, prompt: Prompt, choice: _Choice) -> SelectedCache:
        own = choice.selection.fork()
        reading = Reading(
            selection=own,
            selector=self.ranker.name,
            encoder=self.ranker.encoder_name,
            prompt_tokens=len(prompt),
            bytes_per_token=self.info.bytes_per_token,
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
        """Return the generated tokens between two refreshes; 0 if none can change anything, or if
        a text may not be read again as a prompt."""
        if self.inner.info.whole_prompts:
            return 0
        context = selection.context
        is_full = len(selection.chosen) + len(context.banned) >= len(context.chunks)
        may_change = self.ranker.refreshes or self.config.growth
        return self.config.refresh if may_change and not is_full else 0

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments; caches that are due are refreshed first."""
        caches = [segment.cache for segment in segments]
        self.refresh(caches)
        rows = self.inner.forward(
            [opened_segment(segment, _unwrapped) for segment in segments], want
        )
        _note_rows(segments)
        return rows

    # -- refresh ----------------------------------------------------------------------------

    def refresh(self, caches: Sequence[Cache]) -> None:
        """Refresh the selections that are due, and swap chunks; all caches share the forwards.

        Evicted chunks are freed before others are read. Call it only between two rounds:
        speculative rows are dropped.
        """
        due = [c for c in caches if isinstance(c, SelectedCache) and c.horizon == 0]
        if not due:
            return
        begun = perf_counter()
        self._rearrange([change for cache in due if (change := self._look(cache)) is not None])
        for cache in due:
            cache.reading.refresh_seconds += perf_counter() - begun

    def _look(self, cache: SelectedCache) -> _Change | None:
        """Decide the new content of a cache; None if it does not change."""
        before, whole = cache.spans, cache.whole
        due, recent = cache.recent()
        decision = cache.selection.refresh(due, recent)
        cache.note_look(due)
        if not decision.admitted and not decision.evicted:
            return None
        after = spans_of(cache.selection.context, decision.chosen, len(whole))
        return _Change(cache, before, after, whole)

    def _rearrange(self, changes: Sequence[_Change]) -> None:
        texts = [
            pieces_between(c.before, c.after, c.whole, self.config, compact=c.cache.compact)
            for c in changes
        ]
        segmented = self.inner.segmented
        if segmented is None:
            for change in changes:
                self._read_again(change)
        elif changes:
            segmented.rearrange([change.cache.inner for change in changes], texts)
        for change, pieces in zip(changes, texts, strict=True):
            change.cache.note_swap(pieces)

    def _read_again(self, change: _Change) -> None:
        """Read the new text from the first change on, like a new prompt."""
        cache, whole = change.cache, Prompt(token_ids=tuple(change.whole))
        text = selected_prompt(whole, change.after, compact=cache.compact)
        [cache.inner] = self.inner.start([text], [cache.inner])


@dataclass(frozen=True, slots=True)
class _SelectedChains:
    """`protocols.ChainDecoder` of the inner model; it first refreshes caches that are due."""

    model: Selected
    inner: ChainDecoder

    def write_chains(
        self, chains: Sequence[ChainRequest], confidence: float = 0.0
    ) -> list[IntArray] | None:
        """Write each chain with the inner model."""
        self.model.refresh([chain.segment.cache for chain in chains])
        written = ChainsInside(self.inner, _unwrapped).write_chains(chains, confidence)
        _note_rows([chain.segment for chain in chains])
        return written


def _unwrapped(cache: Cache) -> Cache:
    return cache.inner if isinstance(cache, SelectedCache) else cache


def _note_rows(segments: Sequence[Segment]) -> None:
    for segment in segments:
        if isinstance(segment.cache, SelectedCache):
            segment.cache.note_rows()
