"""Builds the logits processors of `transformers` for a generation configuration, in its order."""

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from outrider.core.checks import shown
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.sampling import LogitsProcessor

Config = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What processors know of a text before it is written.

    Attributes:
        prompt: ids of the prompt as processors see it, `[1, width]`, with padding.
        padding: number of padding tokens before the prompt.
        max_length: largest number of tokens of prompt and answer.
        end_ids: the end tokens.
        vocab_size: width of the logits.
    """

    prompt: Tensor
    padding: int
    max_length: int
    end_ids: tuple[int, ...]
    vocab_size: int

    @property
    def width(self) -> int:
        """Length of the prompt, with padding."""
        return int(self.prompt.shape[1])

    @property
    def ends(self) -> Tensor:
        """The end tokens as `transformers` wants them."""
        return torch.tensor(self.end_ids, dtype=torch.long)


Build = Callable[[JsonValue, Text], LogitsProcessor | None]


def build_processors(
    config: Config, text: Text, only: Collection[str] | None = None
) -> list[LogitsProcessor]:
    """Build the processors that `config` sets, without warpers, in the order of `transformers`.

    The least length is left out: `SamplingParams.min_new_tokens` gives the same.

    Args:
        config: effective values by field.
        text: the text they are for.
        only: the fields to build; None builds all.

    Raises:
        OptionError: a value is invalid.
    """
    return _build(_processors("forced_bos_token_id" in config), config, text, only)


def build_warpers(config: Config, text: Text) -> list[LogitsProcessor]:
    """Build the warpers for sampling, in the order of `transformers`. Raises `OptionError`."""
    return _build(_warpers(), config, text, None)


def build_watermark(config: Config, text: Text) -> list[LogitsProcessor]:
    """Build the processor of a watermark, which comes after the warpers. Raises `OptionError`."""
    given = config.get("watermarking_config")
    if given is None:
        return []
    configs: JsonValue = importlib.import_module("transformers")

    def build(value: JsonValue, text: Text) -> LogitsProcessor:
        watermark = value
        if isinstance(value, Mapping):
            kind = "SynthIDTextWatermarkingConfig" if "ngram_len" in value else "WatermarkingConfig"
            watermark = getattr(configs, kind).from_dict(value)
        return watermark.construct_processor(text.vocab_size, "cpu")

    return _build({"watermarking_config": build}, config, text, None)


def _build(
    table: Mapping[str, Build], config: Config, text: Text, only: Collection[str] | None
) -> list[LogitsProcessor]:
    made: list[LogitsProcessor] = []
    for name, build in table.items():
        value = config.get(name)
        if value is None or (only is not None and name not in only):
            continue
        try:
            if name in _OF_IDS:
                _check_ids(name, value, text.vocab_size)
            processor = build(value, text)
        except OptionError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise OptionError(f"{name} is {shown(value)}: {reason}") from error
        if processor is not None:
            made.append(processor)
    return made


_OF_IDS = ("bad_words_ids", "forced_bos_token_id", "forced_eos_token_id", "sequence_bias")
"""Fields whose ids the classes of `transformers` index with, in the middle of a text."""


def _check_ids(name: str, value: JsonValue, vocab_size: int) -> None:
    """Refuse ids that the vocabulary lacks. Raises `OptionError`."""
    if name == "sequence_bias" and not isinstance(value, Mapping):  # pairs of ids and a bias
        value = [pair[0] for pair in value if isinstance(pair, list | tuple) and pair]
    for token in _ids(value):
        if not 0 <= token < vocab_size:
            raise OptionError(
                f"{name} holds the token id {shown(token)}",
                hint=f"The ids of the model are 0 to {vocab_size - 1}",
            )


def _ids(value: JsonValue) -> Iterator[int]:
    """Yield the whole numbers in lists and in keys; other types are left to the classes."""
    if isinstance(value, Integral):
        yield int(value)
    elif isinstance(value, list | tuple | Mapping):
        for part in value:
            yield from _ids(part)


def _module() -> JsonValue:
    """Import the processors when they are needed; their annotations ask for other tensor types."""
    return importlib.import_module("transformers.generation.logits_process")


def _processors(forced_bos: bool) -> dict[str, Build]:
    t = _module()

    def begin(value: JsonValue, text: Text) -> LogitsProcessor:
        first = text.width + (text.width <= 1 and forced_bos)  # the forced token comes before
        return t.SuppressTokensAtBeginLogitsProcessor(list(value), first)

    return {
        "sequence_bias": lambda value, _: t.SequenceBiasLogitsProcessor(_bias(value)),
        "encoder_repetition_penalty": lambda value, text: (
            t.EncoderRepetitionPenaltyLogitsProcessor(value, text.prompt) if value != 1.0 else None
        ),
        "repetition_penalty": lambda value, text: (
            _repetition(t, value, text.padding) if value != 1.0 else None
        ),
        "no_repeat_ngram_size": lambda value, _: (
            t.NoRepeatNGramLogitsProcessor(value) if value > 0 else None
        ),
        "encoder_no_repeat_ngram_size": lambda value, text: (
            t.EncoderNoRepeatNGramLogitsProcessor(value, text.prompt) if value > 0 else None
        ),
        "bad_words_ids": lambda value, text: t.NoBadWordsLogitsProcessor(
            [list(word) for word in value], text.ends if text.end_ids else None
        ),
        "prefix_allowed_tokens_fn": lambda value, _: value,
        "forced_bos_token_id": lambda value, _: t.ForcedBOSTokenLogitsProcessor(value),
        "forced_eos_token_id": lambda value, text: t.ForcedEOSTokenLogitsProcessor(
            text.max_length, value
        ),
        "exponential_decay_length_penalty": lambda value, text: t.ExponentialDecayLengthPenalty(
            tuple(value), text.ends, text.width
        ),
        "suppress_tokens": lambda value, _: t.SuppressTokensLogitsProcessor(list(value)),
        "begin_suppress_tokens": begin,
    }


def _warpers() -> dict[str, Build]:
    t = _module()

    return {
        "temperature": lambda value, _: t.TemperatureLogitsWarper(value) if value != 1 else None,
        "top_h": lambda value, _: t.TopHLogitsWarper(top_h=value),
        "top_k": lambda value, _: t.TopKLogitsWarper(value) if value != 0 else None,
        "top_p": lambda value, _: t.TopPLogitsWarper(value) if value < 1 else None,
        "min_p": lambda value, _: t.MinPLogitsWarper(value),
        "typical_p": lambda value, _: t.TypicalLogitsWarper(value) if value < 1 else None,
        "epsilon_cutoff": lambda value, _: t.EpsilonLogitsWarper(value) if 0 < value < 1 else None,
        "eta_cutoff": lambda value, _: t.EtaLogitsWarper(value) if 0 < value < 1 else None,
    }


def _bias(value: JsonValue) -> JsonValue:
    """Return the pairs `[ids, bias]` of a JSON file, or a mapping, in the form of the class."""
    if isinstance(value, Mapping):
        return {tuple(ids): float(bias) for ids, bias in value.items()}
    return [[list(ids), float(bias)] for ids, bias in value]


def _repetition(t: JsonValue, penalty: float, padding: int) -> LogitsProcessor:
    """Penalise tokens of the prompt and the text; padding is left out as in `transformers` 5."""
    if not padding:
        return t.RepetitionPenaltyLogitsProcessor(penalty)
    front = torch.tensor([padding])
    return t.RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=front)


def prefix_processor(allowed: Callable[..., JsonValue], row: int) -> LogitsProcessor:
    """Return the processor of `prefix_allowed_tokens_fn(row, ids)` for one text."""
    return _module().PrefixConstrainedLogitsProcessor(lambda _, ids: allowed(row, ids), 1)
