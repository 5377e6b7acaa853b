"""`Generator`: turns prompts into text. `outrider.load` returns one."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Unpack, cast, overload

from outrider.constraints import Grammars
from outrider.constraints.restrictions import Restrictions
from outrider.context.config import ContextConfig
from outrider.core.checks import Range
from outrider.core.errors import OptionError, OutriderError
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.decoding import Earlier, Learned
from outrider.decoding.generation import Generation
from outrider.decoding.session import run_session
from outrider.engine.learners.learning import teach
from outrider.engine.particles.drawing import Drawing
from outrider.engine.requests import (
    ModelDefaults,
    copied_params,
    params_for,
    read_prompts,
    text_stream,
    warn_of_state,
    warn_of_stops,
)
from outrider.engine.result import Result, result_of
from outrider.engine.stream import Stream
from outrider.guidance.recipe import Recipe
from outrider.inputs.given import GivenDocuments, GivenImages, GivenPrompt, TextCodec
from outrider.inputs.images.messages import check_reads_images
from outrider.inputs.prompts.reading import is_batch
from outrider.policies.guard import Guard, Mode, check_mode
from outrider.policies.schedule import Schedule
from outrider.protocols import Learner, Request
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.options import SamplingOptions
from outrider.strategy import Profile, Strategy
from outrider.strategy.guiding import check_contrast
from outrider.strategy.limiting import StrategyFor, limited

_SAMPLES = Range(1, whole=True, hint="Ask for at least 1 sample")


class Generator(Drawing):
    """Writes text with one strategy.

    The caches of the last single request are kept for the next turn of a conversation.
    `profile`: of `load`."""

    def __init__(
        self,
        strategy: Strategy | StrategyFor,
        *,
        tokenizer: TextCodec | None = None,
        defaults: ModelDefaults | None = None,
        mode: str = "exact",
        context_length: int | None = None,
        selection: ContextConfig | None = None,
        guidance: Recipe | None = None,
        guard: str = "on",
    ) -> None:
        """Build a generator for one strategy.

        Args:
            strategy: one, or a function of sampling parameters (thresholds depend on the warps).
            tokenizer: needed for text prompts, text results and stop strings.
            defaults: the checkpoint's end tokens and sampling defaults.
            mode: the mode that results report.
            context_length: most tokens of prompt and answer; None uses the target's window.
            selection: how documents are cut into chunks and which chunks the models read.
            guidance: the method that guides the target; None: unknown, or none.
            guard: `on`, `warn` or `off`; see `load`.
        """
        self._strategy = strategy
        self.tokenizer = tokenizer
        self.defaults = defaults or ModelDefaults()
        self.mode = mode
        self.context_length = context_length
        self.selection = selection or ContextConfig()
        self.guidance = guidance
        self.restrictions = Restrictions(
            tokenizer, self.defaults.end_ids, lambda: self.strategy.target.info.vocab_size
        )
        self.profile: Profile | None = None
        self._kept: Earlier | None = None
        self._guarding: Mode = check_mode(guard)
        self._guard: Guard | None = None

    @property
    def learner(self) -> Learner | None:
        """What improves the draft model while it is used (`load(learn=...)`), if anything does."""
        return self.strategy.learner

    @property
    def strategy(self) -> Strategy:
        """The strategy for the default sampling parameters of the checkpoint."""
        return self.strategy_for(self.params())

    def strategy_for(self, params: SamplingParams) -> Strategy:
        """Build the strategy for requests with these parameters."""
        return self._strategy if isinstance(self._strategy, Strategy) else self._strategy(params)

    def limit(self, schedule: Schedule) -> None:
        """Limit drafts by the number of requests that run at once."""
        self._strategy = limited(self._strategy, schedule)

    def guard_of(self, strategy: Strategy) -> Guard | None:
        """Return the guard of all requests, which judges this strategy; None if there is none."""
        self._guard = self._guard or strategy.guard(self._guarding)
        return self._guard

    @overload
    def generate(
        self,
        prompt: GivenPrompt,
        *,
        images: GivenImages = None,
        documents: GivenDocuments = None,
        contrast: GivenPrompt | None = None,
        n: Literal[1] = 1,
        **sampling: Unpack[SamplingOptions],
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompt: GivenPrompt,
        *,
        images: GivenImages = None,
        documents: GivenDocuments = None,
        contrast: GivenPrompt | None = None,
        n: int,
        **sampling: Unpack[SamplingOptions],
    ) -> list[Result]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[GivenPrompt],
        *,
        images: Sequence[GivenImages] | None = None,
        documents: GivenDocuments = None,
        contrast: Sequence[GivenPrompt | None] | None = None,
        n: Literal[1] = 1,
        **sampling: Unpack[SamplingOptions],
    ) -> list[Result]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[GivenPrompt],
        *,
        images: Sequence[GivenImages] | None = None,
        documents: GivenDocuments = None,
        contrast: Sequence[GivenPrompt | None] | None = None,
        n: int,
        **sampling: Unpack[SamplingOptions],
    ) -> list[list[Result]]: ...

    def generate(
        self,
        prompt: GivenPrompt | Sequence[GivenPrompt],
        *,
        images: GivenImages | Sequence[GivenImages] = None,
        documents: GivenDocuments = None,
        contrast: GivenPrompt | Sequence[GivenPrompt | None] | None = None,
        n: int = 1,
        **sampling: Unpack[SamplingOptions],
    ) -> Result | list[Result] | list[list[Result]]:
        """Generate a continuation or an answer for each prompt.

        Args:
            prompt: a string, a `Prompt`, a list of chat messages, or a list of any of these (or of
                lists of token ids), which are decoded together. Image parts of messages may hold
                an `image` of their own, as in `transformers`.
            images: for targets that read images: `PIL.Image.Image` or paths of files, placed before
                the string or at the image parts of the messages; a list of such lists for a list of
                prompts.
            documents: long inputs placed before the prompt, which is then the instruction: a text,
                a `Path` of a file or folder, `(name, text)`, or a list of these. The option
                `selection` of `outrider.load` sets how much of them is read.
            contrast: another prompt for the same answer, for guidance that compares two; read with
                the same images or documents. For a list of prompts, a list of them or of None.
            n: samples of each prompt; the prompt is read once.
            **sampling: see `SamplingParams`; defaults come from the checkpoint's
                generation_config.json.

        Returns:
            A `Result`; a list of them for a list of prompts; for `n` above one, a list for each.

        Raises:
            OptionError: an option is unknown or out of range, an image cannot be read, the number
                of images differs from the number of places for them, or the target does not read
                images.
            ContextError: a prompt does not fit.
        """
        batch = is_batch(prompt)
        several = cast("Sequence[GivenPrompt]", prompt if batch else [prompt])
        pictures = cast("Sequence[GivenImages] | None", images if batch else [images])
        others = cast("Sequence[GivenPrompt | None] | None", contrast if batch else [contrast])
        prompts = self._read(several, documents, pictures, others)
        strategy = self.strategy_for(self.params(**sampling))
        generations = self._generations(prompts, n, sampling, strategy)
        deque(self.run(generations, strategy), maxlen=0)
        results = [self.result(g, strategy) for g in generations]
        grouped = [results[i : i + n] for i in range(0, len(results), n)]
        out = grouped if n > 1 else results
        return out if batch else out[0]

    def stream(
        self,
        prompt: GivenPrompt,
        *,
        images: GivenImages = None,
        documents: GivenDocuments = None,
        contrast: GivenPrompt | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> "Stream":
        """Start one continuation; iterate over the returned stream for its text."""
        if self.tokenizer is None:
            raise OptionError(
                "streaming text needs a tokenizer", hint="Give one, or use generate()"
            )
        strategy = self.strategy_for(self.params(**sampling))
        generation, rounds = self.start(
            prompt, images=images, documents=documents, contrast=contrast, **sampling
        )
        return Stream(generation, rounds, lambda: self.result(generation, strategy))

    def start(
        self,
        prompt: GivenPrompt,
        *,
        images: GivenImages = None,
        documents: GivenDocuments = None,
        contrast: GivenPrompt | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> tuple[Generation, Iterator[list[Generation]]]:
        """Start one request; return it with the iterator of rounds that write it."""
        strategy = self.strategy_for(self.params(**sampling))
        prompts = self._read([prompt], documents, [images], [contrast])
        [generation] = self._generations(prompts, 1, sampling, strategy)
        return generation, self.run([generation], strategy)

    def prompt(
        self,
        prompt: GivenPrompt,
        *,
        images: GivenImages = None,
        documents: GivenDocuments = None,
        contrast: GivenPrompt | None = None,
    ) -> Prompt:
        """Build the `Prompt` that `generate` would read; `generate` accepts it too.

        Use it to inspect the chunks of a long input and to pin some of them:
        `replace(prompt, context=prompt.context.pin(3))`.
        """
        return self._read([prompt], documents, [images], [contrast])[0]

    def params(self, **sampling: Unpack[SamplingOptions]) -> SamplingParams:
        """Merge `sampling` into the defaults of the checkpoint."""
        return self.defaults.params(sampling)

    def run(
        self, generations: Sequence[Generation], strategy: Strategy
    ) -> Iterator[list[Generation]]:
        """Decode round by round, then keep the caches of the first request for the next call."""
        if not generations:
            return
        kept, self._kept = self._kept, None
        learned = kept and Learned(kept.counters)
        previous = [kept, *[learned] * (len(generations) - 1)]
        whole = False
        try:
            session = strategy.session(self.guard_of(strategy))
            yield from run_session(session, generations, previous)
            whole = True
        except (GeneratorExit, OutriderError):  # between two rounds, or before the first one
            whole = True
            raise
        finally:
            first = generations[0]
            if not whole:  # caches may be half written, after Ctrl-C for example
                self._kept = learned or None
            elif first.sequence is None:  # the request was refused before anything was read
                self._kept = kept
            elif first.error is None:
                self._kept = first.sequence
            if strategy.learner is not None and whole:
                teach(strategy.learner, generations)

    def result(self, generation: Generation, strategy: Strategy) -> Result:
        """Build the result of a finished generation."""
        return result_of(generation, strategy, self.mode, self.guard_of(strategy))

    def reset(self) -> None:
        """Drop the caches kept for the next turn, but not the statistics of policies."""
        self._kept = self._kept and Learned(self._kept.counters)

    def _read(
        self,
        prompts: Sequence[GivenPrompt],
        documents: GivenDocuments,
        images: Sequence[GivenImages] | None,
        others: Sequence[GivenPrompt | None] | None,
    ) -> list[Prompt]:
        size, derive = self.selection.chunk_size, self.guidance and self.guidance.contrast
        return read_prompts(prompts, images, documents, self.tokenizer, size, derive, others)

    def _generations(
        self, prompts: Sequence[Prompt], n: int, given: Mapping[str, JsonValue], strategy: Strategy
    ) -> list[Generation]:
        _SAMPLES.check("n", n)
        target = strategy.target
        check_reads_images(target, prompts)
        check_contrast(prompts, target, self.guidance)
        params = self.defaults.params(given)
        warn_of_state(params, strategy.rule.exactness, strategy.drafts)
        warn_of_stops(params)
        own = [
            params_for(
                prompt,
                params,
                target,
                defaults=self.defaults,
                given=given,
                context_length=self.context_length,
            )
            for prompt in prompts
        ]
        if len(prompts) * n == 1:
            return [self.generation(prompts[0], own[0])]
        pairs = list(zip(prompts, own, strict=True))
        return [self.generation(p, copied_params(one), i) for p, one in pairs for i in range(n)]

    def generation(
        self,
        prompt: Prompt,
        params: SamplingParams,
        sample: int = 0,
        *,
        sampler: Sampler | None = None,
        prediction: Sequence[int] = (),
        shown: frozenset[int] = frozenset(),
    ) -> Generation:
        """Make the record of one request, which `run` writes.

        Args:
            prompt: the prompt.
            params: its parameters.
            sample: number of the sample of this prompt.
            sampler: chooses the tokens; None makes one from the parameters.
            prediction: tokens of a text that the answer is expected to resemble.
            shown: special tokens that the text holds; the others stand for no text.

        Raises:
            OptionError: there are stop strings and no tokenizer.
        """
        if params.stop and self.tokenizer is None:
            raise OptionError("stop strings need a tokenizer", hint="Use stop_token_ids")
        mask_id = self._strategy.mask_id if isinstance(self._strategy, Strategy) else None
        sampler = sampler or Sampler(
            params,
            prompt_ids=prompt.token_ids,
            end_ids=self.defaults.end_ids,
            sample=sample,
            walk=self.restrictions.walk(params.constraint) if mask_id is None else None,
            checks=self.restrictions.checks(params.checker),
        )
        filling = None
        if mask_id is not None:
            filling = self.restrictions.filling(params.constraint, mask_id)
        window = self.context_length if prompt.image_prompt is not None else None
        return Generation(
            Request(prompt, sampler, prediction=tuple(prediction), completable=filling),
            text_stream(self.tokenizer, prompt, params, shown),
            window=window,
        )

    @property
    def grammars(self) -> Grammars:
        """The compiled constraints of this model. Raises `OptionError` without a tokenizer."""
        return self.restrictions.grammars
