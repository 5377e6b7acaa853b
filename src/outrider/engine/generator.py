"""`Generator`: prompts in, text out. What `outrider.load` returns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from outrider.decoding import Lane, generate
from outrider.engine.prompts import is_batch, read_prompt
from outrider.engine.result import Result, ResultMaker, spans
from outrider.errors import OptionError
from outrider.generation import Generation
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.text import TextStream
from outrider.types import Prompt


@runtime_checkable
class TextCodec(Protocol):
    """What the generator asks of a tokenizer."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Text to ids, special tokens as the model expects them at the start."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text without special tokens."""
        ...

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Messages to ids by the chat template, ready for the answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefaults:
    """What a checkpoint says about how it wants to be used."""

    end_ids: tuple[int, ...] = ()
    sampling: Mapping[str, Any] | None = None


class Generator:
    """Writes text with one strategy.

    The caches of the last single request are kept: when the next prompt begins like the last text
    (the next turn of a conversation), every tier reads only what is new.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        tokenizer: TextCodec | None = None,
        defaults: ModelDefaults | None = None,
        mode: str = "exact",
        windows: tuple[int, ...] = (),
    ) -> None:
        self.strategy = strategy
        self.tokenizer = tokenizer
        self.defaults = defaults or ModelDefaults()
        self.mode = mode
        self._make_result = ResultMaker(mode=mode, exactness=strategy.exactness, windows=windows)
        self._kept: Lane | None = None

    def generate(self, prompt: Any, *, n: int = 1, **sampling: Any) -> Any:
        """Write a continuation or an answer.

        Args:
            prompt: a string, a `Prompt`, a list of chat messages, or a list of any of these (or of
                lists of token ids), which are decoded together.
            n: samples of each prompt; its text is read once.
            **sampling: see `SamplingParams`; what is not given follows the checkpoint's
                generation_config.json.

        Returns:
            A `Result`; a list of them for a list of prompts; for `n` above one, a list for each.

        Raises:
            OptionError: an option is unknown or out of range.
            ContextError: a prompt does not fit.
        """
        batch = is_batch(prompt)
        prompts = [self._read(p) for p in (prompt if batch else [prompt])]
        generations = self._generations(prompts, n, self.params(**sampling))
        for _ in self.run(generations):
            pass
        results = [self.result(g) for g in generations]
        grouped = [results[i : i + n] for i in range(0, len(results), n)]
        out = grouped if n > 1 else results
        return out if batch else out[0]

    def stream(self, prompt: Any, **sampling: Any) -> "Stream":
        """Write one continuation; iterate over the returned stream for its text, as it comes."""
        if self.tokenizer is None:
            raise OptionError(
                "streaming text needs a tokenizer", hint="Give one, or use generate()"
            )
        [generation] = self._generations([self._read(prompt)], 1, self.params(**sampling))
        return Stream(self, generation)

    def params(self, **sampling: Any) -> SamplingParams:
        """Sampling parameters: the checkpoint's defaults with `sampling` over them."""
        return SamplingParams.of(**{**(self.defaults.sampling or {}), **sampling})

    def run(self, generations: Sequence[Generation]) -> Iterator[list[Generation]]:
        """Decode, round by round, and keep the caches of a single request for the next."""
        kept, self._kept = self._kept, None
        previous = [kept] + [None] * (len(generations) - 1)
        try:
            yield from generate(self.strategy.stage, generations, previous)
        finally:
            first = generations[0]
            if first.lane is not None and first.error is None:
                self._kept = first.lane

    def result(self, generation: Generation) -> Result:
        """The result of a finished generation."""
        drafter = self.strategy.stage.drafter
        return self._make_result(generation, drafter.counters(generation.lane.state))

    def reset(self) -> None:
        """Forget the caches kept for the next turn."""
        self._kept = None

    def _read(self, prompt: Any) -> Prompt:
        return read_prompt(prompt, self.tokenizer)

    def _generations(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams
    ) -> list[Generation]:
        if n < 1:
            raise OptionError(f"n is {n}", hint="Ask for at least 1 sample")
        return [
            self._generation(prompt, params, sample) for prompt in prompts for sample in range(n)
        ]

    def _generation(self, prompt: Prompt, params: SamplingParams, sample: int) -> Generation:
        if params.stop and self.tokenizer is None:
            raise OptionError("stop strings need a tokenizer", hint="Use stop_token_ids")
        sampler = Sampler(
            params,
            prompt_ids=prompt.token_ids,
            end_ids=self.defaults.end_ids,
            sample=sample,
        )
        stream = TextStream(self.tokenizer.decode, params.stop) if self.tokenizer else None
        return Generation(Request(prompt, sampler), stream)


class Stream:
    """One request being written. Iterate for pieces of text; then read `result`."""

    def __init__(self, generator: Generator, generation: Generation) -> None:
        self._generator = generator
        self._generation = generation
        self._released = 0

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, whole characters, stop strings held back."""
        for piece, _ in self.spans():
            yield piece

    def spans(self) -> Iterator[tuple[str, str]]:
        """The same with the tier that wrote each piece: `(text, source)`."""
        stream = self._generation.stream
        assert stream is not None
        for _ in self._generator.run([self._generation]):
            yield from self._sourced(stream.take())
        yield from self._sourced(stream.take())

    def _sourced(self, piece: str) -> Iterator[tuple[str, str]]:
        generation, start = self._generation, self._released
        self._released += len(piece)
        ends = [min(end - start, len(piece)) for end in generation.ends]
        shown = [(e, s) for e, s in zip(ends, generation.sources, strict=True) if e > 0]
        yield from spans(piece, [e for e, _ in shown], [s for _, s in shown])

    def cancel(self) -> None:
        """Stop before the next round; may be called from another thread."""
        self._generation.cancel()

    @property
    def result(self) -> Result:
        """The finished request."""
        if self._generation.finish is None:
            raise OptionError("the stream is not at its end", hint="Iterate to the end, or cancel")
        return self._generator.result(self._generation)
