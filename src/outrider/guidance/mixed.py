"""A model whose logits are a function of the logits of several sources."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from outrider.core.errors import VocabularyError
from outrider.core.types import IntArray, Prompt, Rows
from outrider.guidance.cache import MixedCache
from outrider.guidance.mixer import Found, Mixer
from outrider.guidance.source import Source, same
from outrider.models.wrappers.passing import ModelWrapper, opened_segment
from outrider.protocols import Cache, LanguageModel, Segment

Job = TypeVar("Job")
Out = TypeVar("Out")


class Mixed(ModelWrapper):
    """A `LanguageModel` that mixes the rows of its sources.

    The first source, the base, reads the prompt as it is given. Prompts for which another source
    has nothing to read (its view is None) are read by the base only and not guided. Drafts are
    verified against the mixed distribution and do not change the text; drafters that use layers of
    the target use those of the base, unguided.

    A token that a source with a negative weight excludes (-inf) and the others allow makes the row
    unusable, which ends that request with an error.

    Args:
        sources: the base first.
        mixer: combines their rows.
        guidance: what results report: a scale, or an expression such as `contrastive(alpha=0.2)`.
    """

    def __init__(self, sources: Sequence[Source], mixer: Mixer, guidance: float | str) -> None:
        base = sources[0].model
        infos = [source.model.info for source in sources]
        _check_vocabularies([info.vocab_size for info in infos], [info.name for info in infos])
        # Sources that read the whole prompt; of other readings, the caches tell what still fits.
        whole = [source.model.info for source in sources if source.view is same]
        window = min(whole, key=lambda one: one.context_length, default=base.info)
        shorter = window.context_length < base.info.context_length
        name = f"{base.info.name} guided by {window.name}" if shorter else base.info.name
        info = replace(
            base.info,
            name=name,
            context_length=window.context_length,
            context_reason=f"the window of {window.name}" if shorter else base.info.context_reason,
            find_fingerprint=lambda: "-".join(
                (*dict.fromkeys(one.fingerprint for one in infos), f"guided-{guidance}")
            ),
            find_bytes_per_token=lambda: sum(one.bytes_per_token for one in infos),
            exactness=max((one.exactness for one in infos), key=lambda exact: exact.rank),
            whole_prompts=mixer.reads_texts or any(source.view is not same for source in sources),
            guidance=guidance,
            batch_invariant=all(one.batch_invariant for one in infos),
        )
        super().__init__(base, info, _base)
        self.sources = tuple(sources)
        self.mixer = mixer
        self.guidance = guidance
        self.chain_decoder = None  # the inner model would choose from logits that are not mixed
        self.segmented = None  # pieces refer to tokens of one text, and there are several
        self.selector = None  # all texts select their chunks when they are read
        if 0 not in mixer.stages[0]:
            self.layered = self.hidden_states = None  # the base may be behind the text

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Cache]:
        """Read the prompts with all sources; each model reads its prompts together."""
        old = list(reuse) if reuse is not None else [None] * len(prompts)
        guided = self._views(prompts)
        jobs = [
            _Start(number, place, prompt, _kept(old[place], number))
            for number in range(len(self.sources))
            for place, views in enumerate(guided)
            if (prompt := _seen(prompts[place], views, number)) is not None
        ]
        read = _by_model(jobs, lambda job: self.sources[job.source].model, _start)
        caches: list[list[Cache]] = [[] for _ in prompts]
        for job, cache in zip(jobs, read, strict=True):
            caches[job.place].append(cache)
        return [
            MixedCache(own, self.guidance) if views is not None else own[0]
            for own, views in zip(caches, guided, strict=True)
        ]

    def _views(self, prompts: Sequence[Prompt]) -> list[list[Prompt] | None]:
        """Return what each source reads of each prompt; None for prompts that are not guided."""
        known: dict[int, list[Prompt] | None] = {}
        for prompt in prompts:
            if id(prompt) not in known:
                views = [source.view(prompt) for source in self.sources]
                found = [view for view in views if view is not None]
                known[id(prompt)] = found if len(found) == len(views) else None
        return [known[id(prompt)] for prompt in prompts]

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments with the sources that the mixer asks for, stage by stage."""
        texts: list[Found] = []
        alone: dict[int, _Read] = {}
        for number, (segment, rows) in enumerate(zip(segments, want, strict=True)):
            cache = segment.cache
            if isinstance(cache, MixedCache):
                cache.append(segment)
                texts.append(Found.of(cache, rows))
            else:
                alone[number] = _Read(0, opened_segment(segment, _base), rows)
        jobs = list(alone.values())
        for stage in self.mixer.stages:
            for text in texts:
                jobs += self._jobs(stage, text)
            self._read(jobs)
            jobs = []
        mixed = iter(texts)
        return [
            alone[number].rows if number in alone else self._mixed(next(mixed))
            for number in range(len(segments))
        ]

    def _jobs(self, stage: Sequence[int], text: Found) -> "list[_Read]":
        """Return the reads of a text in one stage."""
        jobs: list[_Read] = []
        for number in stage:
            mask = self.mixer.wanted(number, text)
            text.masks[number] = mask
            if mask is not None and not bool(mask.any()):
                continue
            want = text.want if mask is None else text.want[mask.cpu().numpy()]
            jobs.append(_Read(number, text.cache.unread(number), want, text))
        return jobs

    def _read(self, jobs: "Sequence[_Read]") -> None:
        for job in jobs:
            source = self.sources[job.source]
            if source.layers and (states := source.model.hidden_states) is not None:
                states.watch(job.segment.cache, source.layers)
        found = _by_model(jobs, lambda job: self.sources[job.source].model, _forward)
        for job, rows in zip(jobs, found, strict=True):
            job.take(rows)

    def _mixed(self, text: Found) -> Rows:
        base = text.rows[0]
        if not len(text):  # nothing is wanted, and a mixer may have read nothing
            return base or Rows(torch.empty(0, self.info.vocab_size, dtype=self.info.dtype))
        logits = self.mixer.mixed(text)
        if base is not None and text.masks[0] is None:
            # Without a chooser: the model's own would choose from logits that are not mixed.
            return replace(base, logits=logits, chooser=None, plain=base.logits)
        return Rows(logits)


def _seen(prompt: Prompt, views: Sequence[Prompt] | None, source: int) -> Prompt | None:
    """Return what a source reads; the base reads every prompt."""
    return prompt if source == 0 else None if views is None else views[source]


@dataclass(frozen=True, slots=True)
class _Start:
    """A prompt that one source reads."""

    source: int
    place: int
    prompt: Prompt
    reuse: Cache | None


@dataclass(slots=True)
class _Read:
    """A segment that one source reads."""

    source: int
    segment: Segment
    want: IntArray
    text: Found | None = None
    rows: Rows = field(default_factory=lambda: Rows(torch.empty(0, 0)))

    def take(self, rows: Rows) -> None:
        self.rows = rows
        if self.text is not None:
            self.text.rows[self.source] = rows


def _start(model: LanguageModel, jobs: Sequence[_Start]) -> Sequence[Cache]:
    return model.start([job.prompt for job in jobs], [job.reuse for job in jobs])


def _forward(model: LanguageModel, jobs: Sequence[_Read]) -> Sequence[Rows]:
    return model.forward([job.segment for job in jobs], [job.want for job in jobs])


def _by_model(
    jobs: Sequence[Job],
    model_of: Callable[[Job], LanguageModel],
    run: Callable[[LanguageModel, Sequence[Job]], Sequence[Out]],
) -> list[Out]:
    """Run the jobs of each model together; return the results in the order of `jobs`."""
    groups: dict[int, list[int]] = {}
    for number, job in enumerate(jobs):
        groups.setdefault(id(model_of(job)), []).append(number)
    out: dict[int, Out] = {}
    for numbers in groups.values():
        group = [jobs[number] for number in numbers]
        out |= zip(numbers, run(model_of(group[0]), group), strict=True)
    return [out[number] for number in range(len(jobs))]


def _base(cache: Cache) -> Cache:
    return cache.sources[0] if isinstance(cache, MixedCache) else cache


def _kept(cache: Cache | None, source: int) -> Cache | None:
    """Return the cache of one source that an earlier text has left."""
    if isinstance(cache, MixedCache):
        return cache.sources[source] if source < len(cache.sources) else None
    return cache if source == 0 else None


def _check_vocabularies(sizes: Sequence[int], names: Sequence[str]) -> None:
    if len(set(sizes)) > 1:
        found = ", ".join(f"{name} has {size}" for name, size in zip(names, sizes, strict=True))
        raise VocabularyError(
            f"the models of the guidance have different vocabularies: {found} tokens",
            hint="Use models with the tokenizer of the target",
        )
