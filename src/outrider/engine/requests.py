"""Sets the sampling parameters of one request: defaults of the checkpoint, options, the prompt."""

import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from outrider.core.checks import shown
from outrider.core.errors import ContextError, OptionError, OutriderWarning
from outrider.core.types import Exactness, Prompt
from outrider.core.values import JsonValue
from outrider.engine.generation_config.processors import Text
from outrider.engine.generation_config.settings import follow, needs_classes
from outrider.engine.prompt_size import places_of
from outrider.inputs.given import (
    GivenDocuments,
    GivenImages,
    GivenPrompt,
    MarkedCodec,
    TextCodec,
)
from outrider.inputs.images.messages import images_of
from outrider.inputs.prompts.reading import read_documents, read_long_prompt, read_prompt
from outrider.protocols import LanguageModel
from outrider.sampling import SamplingParams
from outrider.sampling.processors import copied, names, stateful
from outrider.sampling.text import Marks, TextStream


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefaults:
    """Defaults that a checkpoint defines.

    Attributes:
        end_ids: the end tokens.
        sampling: options of `SamplingParams`.
        generation_config: all fields of generation_config.json; some depend on the prompt.
    """

    end_ids: tuple[int, ...] = ()
    sampling: Mapping[str, JsonValue] | None = None
    generation_config: Mapping[str, JsonValue] = field(default_factory=dict)

    def merged(self, given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Merge given options into the defaults; a default yields to what is given."""
        inherited: dict[str, JsonValue] = dict(self.sampling or {})
        if "max_new_tokens" in given and "min_new_tokens" in inherited:
            most = given["max_new_tokens"]
            if isinstance(most, int):
                inherited["min_new_tokens"] = min(inherited["min_new_tokens"], most)
        if "min_new_tokens" in given and "max_new_tokens" in inherited:
            least = given["min_new_tokens"]
            if isinstance(least, int):
                inherited["max_new_tokens"] = max(inherited["max_new_tokens"], least)
        if "stop" in given:
            inherited.pop("stop", None)
        return {**inherited, **given}

    def params(self, given: Mapping[str, JsonValue]) -> SamplingParams:
        """Merge given options into the defaults. Raises `OptionError`."""
        merged = self.merged(given)
        if "min_new_tokens" not in given and "max_new_tokens" not in given:
            least = merged.get("min_new_tokens", 0)  # a checkpoint may set a least length alone
            most = merged.get("max_new_tokens", SamplingParams().max_new_tokens)
            if least and least > most:
                merged["max_new_tokens"] = least
        return SamplingParams.of(**merged)

    def lengths(
        self, params: SamplingParams, given: Mapping[str, JsonValue], length: int
    ) -> dict[str, int]:
        """Return the limits that `max_length` and `min_length` set for a prompt of `length`."""
        config = self.generation_config
        limits: dict[str, int] = {}
        already = {*given, *(self.sampling or {})}
        most, least = config.get("max_length"), config.get("min_length")
        if most and most > length and "max_new_tokens" not in already:
            limits["max_new_tokens"] = most - length
        if least and least > length and "min_new_tokens" not in already:
            limits["min_new_tokens"] = least - length
        if "min_new_tokens" in given and "max_new_tokens" in limits:
            limits["max_new_tokens"] = max(limits["max_new_tokens"], params.min_new_tokens)
        if limits:
            most = limits.get("max_new_tokens", params.max_new_tokens)
            limits["min_new_tokens"] = min(
                limits.get("min_new_tokens", params.min_new_tokens), most
            )
        return limits


def params_for(
    prompt: Prompt,
    params: SamplingParams,
    target: LanguageModel,
    *,
    defaults: ModelDefaults,
    given: Mapping[str, JsonValue],
    context_length: int | None,
) -> SamplingParams:
    """Set the parameters of one prompt: lengths, a seed, and processors that read the prompt.

    Args:
        prompt: the prompt.
        params: the parameters of the call.
        target: the target.
        defaults: what the checkpoint defines.
        given: the options that the caller gave.
        context_length: largest number of tokens of prompt and answer.

    Raises:
        ContextError: the prompt leaves no token for the answer.
    """
    length = places_of(prompt, target)
    params = replace(
        params,
        seed=secrets.randbits(48) if params.seed is None else params.seed,
        **defaults.lengths(params, given, length),
    )
    if context_length is not None and prompt.image_prompt is None:
        params = _limited(params, length, context_length)
    if not needs_classes(defaults.generation_config):
        return params
    ids = torch.tensor([list(prompt.token_ids)], dtype=torch.long)
    text = Text(
        prompt=ids,
        padding=0,
        max_length=length + params.max_new_tokens,
        end_ids=defaults.end_ids,
        vocab_size=target.info.vocab_size,
    )
    return follow(defaults.generation_config, params, text)


Contrast = Callable[[GivenPrompt], GivenPrompt | None]
"""Maps a prompt to the other prompt that guidance reads; None: there is none."""


def read_prompts(
    prompts: Sequence[GivenPrompt],
    images: Sequence[GivenImages] | None,
    documents: GivenDocuments,
    tokenizer: TextCodec | None,
    chunk_size: int,
    contrast: Contrast | None = None,
    others: Sequence[GivenPrompt | None] | None = None,
) -> list[Prompt]:
    """Read prompts with their images, or with documents before them.

    Args:
        prompts: one for each text.
        images: for each prompt, its images.
        documents: long inputs that are placed before each prompt.
        tokenizer: for prompts of text.
        chunk_size: tokens of a chunk of the documents.
        contrast: derives the other prompt of guidance where none is given.
        others: for each prompt the other one of guidance, or None. It is read with the same images
            or documents, unless it is a `Prompt`.

    Raises:
        OptionError: images and documents are given together, something cannot be read, or the
            numbers of prompts and other prompts differ.
    """
    read = _read_all(prompts, images, documents, tokenizer, chunk_size)
    for i, other in enumerate(_others(prompts, read, contrast, others)):
        if isinstance(other, Prompt):
            read[i] = replace(read[i], contrast=other)
        elif other is not None:
            own = None if images is None else [images[i]]
            [twin] = _read_all([other], own, documents, tokenizer, chunk_size)
            read[i] = replace(read[i], contrast=twin)
    return read


def _others(
    prompts: Sequence[GivenPrompt],
    read: Sequence[Prompt],
    contrast: Contrast | None,
    given: Sequence[GivenPrompt | None] | None,
) -> list[GivenPrompt | None]:
    """Return the other prompt of each prompt: the one that is given, or else a derived one."""
    if given is None:
        given = [None] * len(prompts)
    elif isinstance(given, str) or len(given) != len(prompts):
        what = f"{len(given)} are" if not isinstance(given, str) else "one text is"
        raise OptionError(
            f"{len(prompts)} prompts are given, but {what} given as contrast",
            hint="Give one, or None, for each prompt",
        )
    derive = contrast or (lambda _: None)
    return [
        derive(prompt) if other is None and own.contrast is None else other
        for prompt, own, other in zip(prompts, read, given, strict=True)
    ]


def _read_all(
    prompts: Sequence[GivenPrompt],
    images: Sequence[GivenImages] | None,
    documents: GivenDocuments,
    tokenizer: TextCodec | None,
    chunk_size: int,
) -> list[Prompt]:
    images = images_of(prompts, images)
    if documents is None:
        pairs = zip(prompts, images, strict=True)
        return [read_prompt(prompt, tokenizer, own) for prompt, own in pairs]
    if any(own is not None for own in images):
        raise OptionError(
            "images and documents are given together", hint="Give documents, or images"
        )
    read = read_documents(documents)
    return [read_long_prompt(prompt, read, tokenizer, chunk_size) for prompt in prompts]


def copied_params(params: SamplingParams) -> SamplingParams:
    """Return the parameters for one of several texts: each needs its own state of a processor."""
    return replace(params, logits_processors=copied(params.logits_processors))


def room_for_answer(length: int, context_length: int) -> int:
    """Return how many tokens a limit leaves for the answer to a prompt of `length` tokens.

    Raises:
        ContextError: it leaves none.
    """
    left = context_length - length
    if left < 1:
        over = 1 - left
        raise ContextError(
            f"the prompt has {length} tokens; the context is limited to "
            f"{context_length} and one is needed for the answer",
            hint=f"Shorten the prompt by {over} token{'s' if over > 1 else ''}, or raise the limit",
        )
    return left


def _limited(params: SamplingParams, length: int, context_length: int) -> SamplingParams:
    left = room_for_answer(length, context_length)
    return replace(
        params,
        max_new_tokens=min(params.max_new_tokens, left),
        min_new_tokens=min(params.min_new_tokens, left),
    )


def warn_of_state(params: SamplingParams, exactness: Exactness, drafted: bool) -> None:
    """Warn that a request is not drafted, because its processors may keep a state."""
    kept = stateful(params.logits_processors)
    if kept and drafted and exactness is not Exactness.IDENTICAL:
        warnings.warn(
            f"drafting is off for this request: {names(kept)} may keep a state, and in this mode "
            "a position may be visited twice. Mark it with outrider.sampling.pure if its result "
            "depends on its arguments only, or use mode exact",
            OutriderWarning,
            stacklevel=4,
        )


def warn_of_stops(params: SamplingParams) -> None:
    """Warn that stop strings may cut a text before it is complete."""
    if params.stop and not (params.constraint is None and params.checker is None):
        kind = "checker" if params.constraint is None else "constraint"
        warnings.warn(
            f"stop is given beside a {kind}: where {shown(params.stop[0])} occurs, the text "
            "ends, complete or not. Leave stop out to get complete texts",
            OutriderWarning,
            stacklevel=4,
        )


def _overlap(mark: str, stop: str) -> bool:
    """Whether a stop string can hold a part of the text of a special token."""
    if not mark:
        return False
    if mark in stop or stop in mark:
        return True
    sizes = range(2, min(len(mark), len(stop)))
    return any(stop.endswith(mark[:n]) or stop.startswith(mark[-n:]) for n in sizes)


def text_stream(
    codec: TextCodec | None,
    prompt: Prompt,
    params: SamplingParams,
    shown: frozenset[int] = frozenset(),
) -> TextStream | None:
    """Return the empty text of a request; None without a tokenizer.

    `shown` are special tokens that the text holds; the others stand for no text.
    """
    if codec is None:
        return None
    decode, marks = codec.decode, None
    if isinstance(codec, MarkedCodec):
        texts = codec.special_texts
        hidden = frozenset(texts) - shown
        if shown:
            decode = partial(_decode_without, codec, hidden)
        if any(_overlap(texts[token], stop) for token in hidden for stop in params.stop):
            marks = Marks(codec.decode_all, hidden)
    return TextStream(decode, params.stop, after=prompt.token_ids, marks=marks)


def _decode_without(codec: MarkedCodec, hidden: frozenset[int], ids: Sequence[int]) -> str:
    """Return the text of ids with special tokens, except for those that are hidden."""
    return codec.decode_all([token for token in ids if token not in hidden])
