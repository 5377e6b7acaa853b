"""`outrider.generate`: accepts calls written for `generate` of `transformers`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outrider.core.errors import OptionError, reject_unknown
from outrider.core.values import JsonValue
from outrider.engine.bridge_call import Call, Streamer
from outrider.engine.bridge_inputs import GivenIds
from outrider.engine.generation_config.fields import FIELDS, METADATA, refused
from outrider.engine.generation_config.guiding import (
    NEGATIVE,
    NEGATIVE_MASK,
    chosen_guidance,
    other_prompts,
)
from outrider.engine.generation_config.settings import Settings
from outrider.engine.load import OPTIONS, load
from outrider.engine.restoring import restored
from outrider.models.loading import ModelSource, TokenizerSource
from outrider.sampling import SamplingParams
from outrider.strategy import PyramidConfig

if TYPE_CHECKING:
    import transformers

_NOT_HERE = ("logprobs", "constraint", "checker")
_OWN_SAMPLING = tuple(f.name for f in fields(SamplingParams) if f.name not in (*_NOT_HERE, *FIELDS))
"""Options of Outrider that `transformers` does not have."""

_LOADING = tuple(name for name in OPTIONS if name not in ("target", "draft", "tokenizer"))
_CALL = (
    *("input_ids", "attention_mask", "logits_processor", "stopping_criteria"),
    *("prefix_allowed_tokens_fn", "generation_config", "seed"),
    *(NEGATIVE, NEGATIVE_MASK),
)
_NO_EFFECT: Mapping[str, Callable[[JsonValue], bool]] = {
    "synced_gpus": lambda value: not value,
    "token_type_ids": lambda value: _all_zero(value),
}
"""Arguments of `transformers` that are accepted if their value changes nothing."""

_HINTS = {
    "position_ids": "Leave it out",
    "custom_generate": "Leave it out",
    "token_type_ids": "Leave it out",
    "assistant_tokenizer": "Give the draft model as a folder: its own tokenizer is used",
    "synced_gpus": "Run one process for each model",
    "inputs_embeds": "Give Prompt(embeddings=...) to outrider.load(...).generate",
    "past_key_values": "Keep the generator of outrider.load: it reuses what it has read",
    "constraint": "Give it to outrider.load(...).generate",
    "checker": "Give it to outrider.load(...).generate",
}
"""Arguments that are refused otherwise, and what to do instead."""
_LOOKUP = "lookup"


def generate(
    model: ModelSource,
    inputs: GivenIds | None = None,
    *,
    assistant_model: ModelSource | None = None,
    tokenizer: TokenizerSource = None,
    streamer: Streamer | None = None,
    generation_config: "transformers.GenerationConfig | None" = None,
    **options: JsonValue,
) -> Tensor:
    """Decode like `model.generate(inputs, assistant_model=...)` of `transformers`, with Outrider.

    The ids are those of `transformers`, greedy and sampled: samples use the generator of PyTorch,
    so `torch.manual_seed` reproduces them. `docs/guide-transformers.md` lists all options.

    Args:
        model: a built causal model of `transformers`, a folder, a hub name or a `LanguageModel`.
            A built model is checked in each call; `TransformersModel(model)` is checked once. It is
            left as it was: training mode, too.
        inputs: token ids `[batch, length]`, as a tensor, an array or lists (`attention_mask` marks
            padding; without it, padding is recognised by `pad_token_id`), or a mapping with
            `input_ids`. `**tokenizer(...)` is also accepted. None: the BOS token.
        assistant_model: the draft model; None decodes undrafted.
        tokenizer: needed for `stop_strings`.
        streamer: `put(tokens)` and `end()`, as in `transformers`; only for one prompt and one
            sample.
        generation_config: options as an object; keyword options win.
        **options: options under their names in `transformers` (`do_sample`, `temperature`,
            `max_new_tokens`, `num_return_sequences`, `logits_processor`, ...), and those of
            `outrider.load` (`qualifier`, `mode`, ...) and of `SamplingParams` (`seed`,
            `presence_penalty`, ...). None switches a field of `GenerationConfig` off, as in
            `transformers`; for all other options it means "not given".

    Returns:
        The rows of `inputs` as given, each with its continuation: `[batch * samples, longest]`,
        padded on the right, on the device of `inputs`.

    Raises:
        OptionError: an option is unknown, cannot be followed, or a streamer is given for several
            texts.
        LogitsError: the model's logits are unusable.
    """
    known = (*_OWN_SAMPLING, *_LOADING, *_CALL, *_HINTS, *FIELDS)
    reject_unknown("option", options, known)
    if isinstance(inputs, Mapping):
        inputs, options = None, {**inputs, **options}
        reject_unknown("entry of the prompt", options, known)
    options = {n: value for n, value in options.items() if value is not None or n in FIELDS}
    ids: object = options.pop("input_ids", None)
    if ids is not None and inputs is not None:
        raise OptionError("inputs and input_ids are both given", hint="Give one of them")
    ids, mask = inputs if ids is None else ids, options.pop("attention_mask", None)
    with restored(model, assistant_model, options.get("qualifier")):
        loading = {name: options.pop(name) for name in _LOADING if name in options}
        given = _given(generation_config, options)
        _refuse(given, options)
        loading = _drafting(given, loading, assistant_model)
        loading |= chosen_guidance(model, given, loading)
        engine = load(model, draft=assistant_model, tokenizer=tokenizer, **loading)
        call = Call(engine, Settings(engine.defaults.generation_config, given), options)
        batch = call.batch(ids, mask)
        call.others = other_prompts(options, batch, engine.strategy.target)
        written = call.write(batch, streamer)
    copies = [row for row in batch.rows for _ in range(call.samples)]
    rows = [[*row, *tokens] for row, tokens in zip(copies, written, strict=True)]
    return _padded(rows, call.settings.pad_id or 0).to(batch.device)


def _all_zero(value: JsonValue) -> bool:
    """Whether these are numbers, all 0."""
    try:
        return not torch.as_tensor(value).any()
    except (TypeError, ValueError, RuntimeError):
        return False


def _given(
    config: "transformers.GenerationConfig | None", options: dict[str, JsonValue]
) -> dict[str, JsonValue]:
    """Take the fields of `GenerationConfig` out of the options; an object gives the others."""
    fields_given = {name: options.pop(name) for name in FIELDS if name in options}
    if config is not None and not hasattr(config, "to_diff_dict"):
        raise OptionError(
            f"generation_config is a {type(config).__name__}", hint="Give a GenerationConfig"
        )
    base = {} if config is None else config.to_diff_dict()
    base = {name: value for name, value in base.items() if name not in METADATA}
    unknown = [n for n in base if n not in FIELDS and not n.startswith("_")]
    if unknown:
        raise OptionError(f"generation_config sets {unknown[0]}, which Outrider does not know")
    return base | fields_given


def _refuse(given: Mapping[str, JsonValue], options: dict[str, JsonValue]) -> None:
    """Refuse what would change the text; drop arguments that change nothing."""
    for name, hint in refused(given).items():
        raise OptionError(f"{name} is {given[name]!r:.60}, which is not followed", hint=hint)
    for name in _HINTS.keys() & options.keys():
        value = options.pop(name)
        if name not in _NO_EFFECT or not _NO_EFFECT[name](value):
            shown = f"{value!r:.40}".split("\n")[0]
            raise OptionError(
                f"{name} is {shown}, which is not followed",
                hint=_HINTS[name],
            )


def _drafting(
    given: dict[str, JsonValue], loading: dict[str, JsonValue], assistant: ModelSource | None
) -> dict[str, JsonValue]:
    """Translate the options of drafting; without a drafter, decode undrafted."""
    length = given.pop("prompt_lookup_num_tokens", None)
    longest = given.pop("max_matching_ngram_size", None)
    tokens = given.pop("num_assistant_tokens", None)
    if length is not None:
        options = "" if longest is None else f"(max_ngram={int(longest)})"
        loading = {"drafter": _LOOKUP + options, "num_speculative_tokens": int(length)} | loading
    elif assistant is not None and tokens is not None:
        loading = {"num_speculative_tokens": int(tokens)} | loading
    chosen = {"drafter", "mode", "rule", "policy", "growth", "qualifier"} & loading.keys()
    if assistant is None and not chosen:
        return {**loading, "mode": "none"}
    if not {"num_speculative_tokens", "num_qualified_tokens", "policy"} & loading.keys():
        # Fixed lengths: measuring costs in every call takes longer than it saves.
        loading = {**loading, "num_speculative_tokens": PyramidConfig().num_speculative_tokens}
    return loading


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
