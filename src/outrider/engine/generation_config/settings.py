"""Translates a generation configuration to options of `SamplingParams`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import torch

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.engine.generation_config.fields import FIELDS, Use, effective
from outrider.engine.generation_config.processors import (
    Text,
    build_processors,
    build_warpers,
    build_watermark,
)
from outrider.sampling import LogitsProcessor, SamplingParams, StoppingCriterion

_LENGTH_BY_DEFAULT = 20
"""New tokens that `transformers` writes where no length is set."""

_WARPS = ("temperature", "top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Numbers of tokens to write."""

    least: int
    most: int

    def within(self, room: int) -> "Lengths":
        """Return the numbers for a text of at most `room` tokens."""
        return Lengths(least=min(self.least, room), most=min(self.most, room))


class Settings:
    """One generation configuration, made of layers: the model's, an object given, and options."""

    def __init__(self, *layers: Mapping[str, JsonValue]) -> None:
        """Merge the layers; a later one wins. None switches a field off, defaults included."""
        self.config: dict[str, JsonValue] = {}
        for layer in layers:
            self.config |= layer

    def get(self, name: str) -> JsonValue:
        """Return the value of a field, or the default of `transformers`."""
        return self.config.get(name, FIELDS[name].default)

    @property
    def samples(self) -> bool:
        """Whether tokens are sampled."""
        return bool(self.get("do_sample"))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end tokens."""
        return tuple(token for token in as_tuple(self.get("eos_token_id")) if token >= 0)

    @property
    def pad_id(self) -> int | None:
        """The padding token, or else the first end token."""
        own = self.get("pad_token_id")
        return next(iter(self.end_ids), None) if own is None else int(own)

    def lengths(self, width: int, window: int) -> Lengths:
        """Return the limits for prompts of `width` tokens, with padding.

        Raises:
            OptionError: `max_length` is not above `width`.
        """
        given, new = self.config.get("max_length"), self.config.get("max_new_tokens")
        if new is not None:
            most = int(new)
        elif given is None:
            most = max(min(_LENGTH_BY_DEFAULT, window - width), 1)
        elif given <= width:
            raise OptionError(
                f"max_length is {given}, and the prompt has {width} tokens already",
                hint="Raise it, or give max_new_tokens",
            )
        else:
            most = int(given) - width
        least = self.config.get("min_new_tokens")
        least = max(0, int(self.get("min_length") or 0) - width) if least is None else int(least)
        return Lengths(least=min(least, most), most=most)

    # -- how tokens are chosen ------------------------------------------------------------------

    def choice(
        self,
        text: Text,
        given: Sequence[LogitsProcessor],
        allowed: LogitsProcessor | None = None,
    ) -> dict[str, JsonValue]:
        """Return the options that choose tokens, with the `given` processors and `allowed`, the one
        of `prefix_allowed_tokens_fn`.

        Compiled code serves where it can. If any field needs a class of `transformers`, all
        processors are its own, in its order.
        """
        config = effective(self.config)
        if not self.samples:
            config = {name: value for name, value in config.items() if name not in _ONLY_SAMPLING}
        needed = [n for n in config if FIELDS[n].use is Use.PROCESSOR and n != "max_time"]
        if not needed and allowed is None and not any(map(_of_transformers, given)):
            return self._native_choice(text) | self._native_warps() | _processors(given)
        if allowed is not None:
            config["prefix_allowed_tokens_fn"] = allowed
        processors = _merged(build_processors(config, text), given)
        warps = self._native_warps()
        if self.samples and not _LATE.isdisjoint(needed):  # these come between or after the warps
            processors += build_warpers({**config, "top_k": self.get("top_k")}, text)
            warps = {"temperature": 1.0}
        processors += build_watermark(config, text)
        return warps | _processors(processors)

    def _native_choice(self, text: Text) -> dict[str, JsonValue]:
        options: dict[str, JsonValue] = {
            "repetition_penalty": self.get("repetition_penalty") or 1.0
        }
        if banned := [i for i in as_tuple(self.get("suppress_tokens")) if 0 <= i < text.vocab_size]:
            options["banned_tokens"] = banned
        return options

    def _native_warps(self) -> dict[str, JsonValue]:
        if not self.samples:
            return {"temperature": 0.0}
        given = {name: self.get(name) for name in _WARPS}
        given["temperature"] = 1.0 if given["temperature"] is None else given["temperature"]
        return {name: value for name, value in given.items() if value is not None}


_WARPERS = frozenset({"top_h", "epsilon_cutoff", "eta_cutoff"})
_ONLY_SAMPLING = _WARPERS | {*_WARPS}
_LATE = _WARPERS | {"watermarking_config"}
_SECONDS = Range(high=1e30)


def as_tuple(value: JsonValue) -> tuple[int, ...]:
    """Return one id or several as a tuple."""
    if value is None:
        return ()
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    return (int(value),) if isinstance(value, Integral) else tuple(int(one) for one in value)


def _processors(found: Sequence[LogitsProcessor]) -> dict[str, JsonValue]:
    return {"logits_processors": tuple(found)} if found else {}


def _of_transformers(processor: LogitsProcessor) -> bool:
    """Whether a given processor may take the place of one that an option makes."""
    return type(processor).__module__.startswith("transformers.")


def _merged(
    built: Sequence[LogitsProcessor], given: Sequence[LogitsProcessor]
) -> list[LogitsProcessor]:
    """Put the caller's processors behind; one of a type that was built takes its place."""
    own = {type(processor): processor for processor in reversed(given)}
    merged = [own.get(type(processor), processor) for processor in built]
    return [*merged, *(p for p in given if all(p is not one for one in merged))]


def needs_classes(config: Mapping[str, JsonValue]) -> bool:
    """Whether generation_config.json sets a field for which a class of `transformers` is built."""
    return any(n in FIELDS and FIELDS[n].use is Use.PROCESSOR for n in effective(config))


def follow(config: Mapping[str, JsonValue], params: SamplingParams, text: Text) -> SamplingParams:
    """Add what generation_config.json sets beyond the options of `SamplingParams`.

    `params` holds the options, those of the caller included, which win.

    Raises:
        OptionError: a value is invalid.
    """
    config = effective(config)
    fields = {n for n in config if n in FIELDS and FIELDS[n].use is Use.PROCESSOR} - _LATE
    several = [word for word in config.get("bad_words_ids") or () if len(word) > 1]
    config = {**config, "bad_words_ids": several or None}
    processors = build_processors(config, text, fields - {"max_time"})
    processors += params.logits_processors
    warps: dict[str, JsonValue] = {}
    warped = params.temperature > 0 and config.get("do_sample")
    if warped and not _LATE.isdisjoint(config):
        own = {name: config[name] for name in _WARPERS & config.keys()}
        given = {name: value for name, value in params.warps.items() if value}
        processors += build_warpers(given | own, text)
        warps = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
    processors += build_watermark(config, text)
    criteria = params.stopping_criteria
    if (seconds := config.get("max_time")) is not None:
        criteria = (time_limit(seconds), *criteria)
    if len(processors) == len(params.logits_processors) and criteria == params.stopping_criteria:
        return params
    return replace(params, logits_processors=tuple(processors), stopping_criteria=criteria, **warps)


def time_limit(seconds: JsonValue) -> StoppingCriterion:
    """Return the criterion of `max_time`, which starts now. Raises `OptionError`."""
    _SECONDS.check("max_time", seconds)
    from transformers import MaxTimeCriteria

    return MaxTimeCriteria(max_time=float(seconds))  # pyright: ignore[reportReturnType]


def stop_criterion(strings: str | Sequence[str], tokenizer: JsonValue) -> StoppingCriterion:
    """Return the criterion of `stop_strings`: it also finds special tokens, and strings that begin
    in the prompt.

    Args:
        strings: the strings that end a text.
        tokenizer: a `Tokenizer` around one of `transformers`.

    Raises:
        OptionError: there is no tokenizer.
    """
    if tokenizer is None:
        raise OptionError("stop strings need a tokenizer", hint="Give tokenizer=...")
    from transformers import StopStringCriteria

    found = [strings] if isinstance(strings, str) else list(strings)
    own = getattr(tokenizer, "tokenizer", tokenizer)
    return StopStringCriteria(tokenizer=own, stop_strings=found)  # pyright: ignore[reportReturnType]
