"""One call of `outrider.generate`: prompts, samplers, and the texts that are written."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from outrider.core.checks import shown
from outrider.core.errors import LogitsError, OptionError, OutriderWarning
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.decoding.generation import Generation
from outrider.engine.bridge_inputs import Batch, read_batch
from outrider.engine.generation_config.processors import Text, prefix_processor
from outrider.engine.generation_config.settings import (
    Lengths,
    Settings,
    as_tuple,
    stop_criterion,
    time_limit,
)
from outrider.engine.generator import Generator
from outrider.engine.requests import room_for_answer
from outrider.protocols import LanguageModel
from outrider.sampling import LogitsProcessor, Sampler, SamplingParams, StoppingCriterion
from outrider.sampling.processors import copied, is_pure
from outrider.sampling.torch_noise import TorchNoise, TorchSampler


@runtime_checkable
class Streamer(Protocol):
    """Shows tokens as they are written, as in `transformers`."""

    def put(self, value: Tensor) -> None:
        """Take the prompt, then each token."""
        ...

    def end(self) -> None:
        """Nothing follows."""
        ...


@dataclass
class Call:
    """One call.

    Attributes:
        engine: writes the texts.
        settings: the fields of `GenerationConfig`.
        options: the options that have no field there.
        others: for each prompt the other one of guidance; None: there are none.
    """

    engine: Generator
    settings: Settings
    options: dict[str, JsonValue]
    others: Sequence[Sequence[int]] | None = None

    @cached_property
    def samples(self) -> int:
        """Number of texts for each prompt."""
        return max(int(self.settings.get("num_return_sequences") or 1), 1)

    def batch(self, inputs: object, mask: object) -> Batch:
        """Read the prompts; without inputs, the BOS token. Raises `OptionError`."""
        start = self.settings.get("bos_token_id")
        if inputs is None and start is not None:
            inputs = [[int(start)]]
        settings = self.settings
        return read_batch(inputs, mask, settings.get("pad_token_id"), settings.end_ids)

    def write(self, batch: Batch, streamer: "Streamer | None" = None) -> list[list[int]]:
        """Write the continuations; samples of one prompt are adjacent.

        Raises:
            OptionError: an option is invalid, or a streamer is given for several texts.
            LogitsError: the logits of a text are unusable.
        """
        if streamer is not None and len(batch.prompts) * self.samples != 1:
            raise OptionError("a streamer shows one text", hint="Give one prompt and one sample")
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise OptionError(
                f"streamer is {shown(streamer)}", hint="Give an object with put(tokens) and end()"
            )
        noise = self._noise(batch)
        generations = self._generations(batch, noise)
        strategy = self.engine.strategy_for(generations[0].request.sampler.params)
        seen = _Shown(streamer)
        try:
            seen.begin(batch)
            for _ in self.engine.run(generations, strategy):
                seen.put(generations[0])
        finally:
            if noise is not None:
                noise.finish(max(len(g.output) for g in generations))
            seen.end()
        for generation in generations:
            result = self.engine.result(generation, strategy)
            if result.error is not None:
                raise LogitsError(result.error)
        self._warn_of_window(generations)
        return [generation.output for generation in generations]

    # -- requests -------------------------------------------------------------------------------

    def _generations(self, batch: Batch, noise: TorchNoise | None) -> list[Generation]:
        several = len(batch.prompts) * self.samples > 1
        made: list[Generation] = []
        for row, ids in enumerate(batch.prompts):
            other = None if self.others is None else Prompt(token_ids=tuple(self.others[row]))
            prompt = Prompt(token_ids=tuple(ids), contrast=other)
            params = self._params(batch, row)
            for sample in range(self.samples):
                own = params
                if several:
                    own = replace(params, logits_processors=copied(params.logits_processors))
                sampler = self._sampler(own, prompt, noise, row * self.samples + sample, sample)
                made.append(self.engine.generation(prompt, own, sampler=sampler))
        return made

    def _warn_of_window(self, generations: Sequence[Generation]) -> None:
        """Warn if the context window ended a text before its limit; nothing in the ids tells."""
        cut = [one for one in generations if one.ended_by_window]
        if not cut:
            return
        name = "max_length" if self.settings.get("max_new_tokens") is None else "max_new_tokens"
        longest = max(cut, key=lambda one: len(one.request.prompt))
        text = "the text" if len(generations) == 1 else f"{len(cut)} of {len(generations)} texts"
        warnings.warn(
            f"the context window of {self._target.info.context_length} tokens ended {text}: a "
            f"prompt of {len(longest.request.prompt)} leaves {len(longest.output)}, and {name} "
            f"allows {shown(longest.request.sampler.params.max_new_tokens)}. Lower {name} or "
            "shorten the prompt",
            OutriderWarning,
            stacklevel=4,
        )

    def _sampler(
        self,
        params: SamplingParams,
        prompt: Prompt,
        noise: TorchNoise | None,
        row: int,
        sample: int,
    ) -> Sampler:
        if noise is None:
            return Sampler(params, prompt_ids=prompt.token_ids, sample=sample)
        return TorchSampler(params, noise, row, prompt_ids=prompt.token_ids)

    def _noise(self, batch: Batch) -> TorchNoise | None:
        """The random numbers of PyTorch, if tokens are sampled and no seed is given."""
        if not self.settings.samples or self.options.get("seed") is not None:
            return None
        info = self._target.info
        device = batch.device or torch.device("cpu")
        return TorchNoise(len(batch.prompts) * self.samples, info.vocab_size, device)

    @cached_property
    def _target(self) -> LanguageModel:
        return self.engine.strategy_for(SamplingParams()).target

    # -- options --------------------------------------------------------------------------------

    def _params(self, batch: Batch, row: int) -> SamplingParams:
        info = self._target.info
        lengths = self.settings.lengths(batch.width, info.context_length)
        options = dict(self.options)
        criteria = _listed("stopping_criteria", options.pop("stopping_criteria", None))
        lengths, ends, criteria = _replaced(criteria, lengths, self.settings.end_ids, batch.width)
        if (limit := self.engine.context_length) is not None:
            lengths = lengths.within(room_for_answer(len(batch.prompts[row]), limit))
        text = Text(
            prompt=batch.seen(row),
            padding=batch.padding(row),
            max_length=batch.width + lengths.most,
            end_ids=ends,
            vocab_size=info.vocab_size,
        )
        processors = _listed("logits_processor", options.pop("logits_processor", None))
        processors += _listed("logits_processors", options.pop("logits_processors", None))
        if (allowed := options.pop("prefix_allowed_tokens_fn", None)) is not None:
            allowed = prefix_processor(allowed, row)
        choice = self.settings.choice(text, processors, allowed)
        choice["banned_tokens"] = (
            *choice.get("banned_tokens", ()),
            *as_tuple(options.pop("banned_tokens", None)),
        )
        ends = () if options.pop("ignore_eos", False) else ends
        choice["logits_processors"] = tuple(
            _with_padding(p, text) for p in choice.get("logits_processors", ())
        )
        params = {
            **choice,
            "stopping_criteria": [_padded_criterion(c, text) for c in self._criteria(criteria)],
            "ignore_eos": True,
            "stop_token_ids": (*ends, *as_tuple(options.pop("stop_token_ids", None))),
            "max_new_tokens": lengths.most,
            "min_new_tokens": lengths.least,
            "seed": None,
            **options,
        }
        if params["seed"] is None:
            params["seed"] = _seed_of_torch()
        return SamplingParams.of(**params)

    def _criteria(self, given: Sequence[StoppingCriterion]) -> list[StoppingCriterion]:
        built: list[StoppingCriterion] = []
        if (seconds := self.settings.get("max_time")) is not None:
            built.append(time_limit(seconds))
        built = [own for own in built if all(type(one) is not type(own) for one in given)]
        if stop := self.settings.get("stop_strings"):
            built.append(stop_criterion(stop, self.engine.tokenizer))
        return [*built, *given]


def _listed(name: str, given: JsonValue) -> list[JsonValue]:
    """Return processors or criteria as a list. Raises `OptionError` for a single one."""
    if given is not None and not isinstance(given, list | tuple):
        raise OptionError(f"{name} is a {type(given).__name__}", hint="Give a list")
    for one in given or ():
        if not callable(one):
            raise OptionError(
                f"{name} holds {shown(one)}",
                hint="Give objects that can be called with ids, scores",
            )
    return list(given or ())


def _replaced(
    criteria: list[JsonValue], lengths: Lengths, ends: tuple[int, ...], width: int
) -> tuple[Lengths, tuple[int, ...], list[JsonValue]]:
    """Let given criteria of `transformers` for length and end tokens replace the options."""
    kept: list[JsonValue] = []
    for one in criteria:
        kind = type(one).__name__ if type(one).__module__.startswith("transformers.") else ""
        if kind == "MaxLengthCriteria":
            most = max(one.max_length - width, 1)
            lengths = Lengths(least=min(lengths.least, most), most=most)
        elif kind == "EosTokenCriteria":
            ends = as_tuple(one.eos_token_id)
        else:
            kept.append(one)
    return lengths, ends, kept


def _seed_of_torch() -> int:
    """A number that the state of PyTorch's generator determines; the state stays as it is."""
    fork = torch.Generator()
    fork.set_state(torch.get_rng_state())
    return int(torch.randint(1 << 48, (), generator=fork))


def _with_padding(processor: LogitsProcessor, text: Text) -> LogitsProcessor:
    """Show a processor the prompt with its padding, as `transformers` does."""
    if not text.padding:
        return processor
    return _Padded(processor, text.prompt[:, : text.padding])


def _padded_criterion(criterion: StoppingCriterion, text: Text) -> StoppingCriterion:
    if not text.padding:
        return criterion
    front = text.prompt[:, : text.padding]
    return lambda ids, scores: criterion(torch.cat((front, ids), dim=1), scores)


class _Padded:
    """A processor that sees padding before the ids."""

    def __init__(self, processor: LogitsProcessor, front: Tensor) -> None:
        self.processor, self.front = processor, front
        self.pure = is_pure(processor)
        self.__name__ = getattr(processor, "__name__", type(processor).__name__)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return self.processor(torch.cat((self.front.to(ids.device), ids), dim=1), scores)


class _Shown:
    """Gives a streamer the prompt, each token, and the end, whatever happens."""

    def __init__(self, streamer: "Streamer | None") -> None:
        self.streamer, self.count = streamer, 0

    def begin(self, batch: Batch) -> None:
        """Show the prompt."""
        if self.streamer is not None:
            self.streamer.put(torch.tensor(batch.rows))

    def put(self, generation: Generation) -> None:
        """Show the tokens that are new."""
        if self.streamer is not None:
            for token in generation.output[self.count :]:
                self.streamer.put(torch.tensor([token]))
            self.count = len(generation.output)

    def end(self) -> None:
        """Tell a reader that nothing follows, after an exception too."""
        if self.streamer is not None:
            self.streamer.end()
