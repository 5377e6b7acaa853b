"""`outrider.generate`: accepts calls written for `generate` of `transformers`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outrider.core.errors import LogitsError, OptionError, reject_unknown
from outrider.engine.generator import Generator
from outrider.engine.load import OPTIONS, load
from outrider.models.loading import ModelSource, TokenizerSource
from outrider.sampling import SamplingParams
from outrider.strategy import PyramidConfig

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

_TOP_K_WHEN_SAMPLING = 50
"""Default top_k of `transformers` for sampling."""

_SAMPLING = tuple(f.name for f in fields(SamplingParams) if f.name != "logprobs")
_RENAMED = {
    "logits_processor": "logits_processors",
    "stopping_criteria": "stopping_criteria",
    "stop_strings": "stop",
    "eos_token_id": "stop_token_ids",
}
_LOADING = tuple(name for name in OPTIONS if name not in ("target", "draft", "tokenizer"))
GivenIds = Tensor | Mapping[str, Tensor] | Sequence[int] | Sequence[Sequence[int]]
"""Token ids `[batch, length]`, or a mapping that holds them as `input_ids`."""

_OWN = (
    "input_ids",
    "attention_mask",
    "do_sample",
    "max_length",
    "min_length",
    "num_return_sequences",
    "pad_token_id",
    "use_cache",
)


def generate(
    model: ModelSource,
    inputs: GivenIds | None = None,
    *,
    assistant_model: ModelSource | None = None,
    tokenizer: TokenizerSource = None,
    streamer: "BaseStreamer | None" = None,
    **options: Any,
) -> Tensor:
    """Decode like `model.generate(inputs, assistant_model=...)` of `transformers`, with Outrider.

    Args:
        model: a built causal model of `transformers`, a folder, a hub name or a `LanguageModel`.
            A built model is checked in each call; `TransformersModel(model)` is checked once.
        inputs: token ids `[batch, length]` (`attention_mask` marks padding), a mapping
            with `input_ids`, or lists of ids. `**tokenizer(...)` is also accepted.
        assistant_model: the draft model; None decodes undrafted.
        tokenizer: needed for `stop_strings`.
        streamer: `put(tokens)` and `end()`, as in `transformers`; only for one prompt and one
            sample.
        **options: sampling options under their names in `transformers` (`do_sample`,
            `temperature`, `max_new_tokens`, `max_length`, `num_return_sequences`,
            `logits_processor`, ...), and those of `outrider.load` (`qualifier`, `mode`, ...).
            None means "not given"; `use_cache` has no effect.

    Returns:
        The rows of `inputs` as given, each with its continuation: `[batch * samples, longest]`,
        padded on the right, on the device of `inputs`.

    Raises:
        OptionError: an option is unknown, or a streamer is given for several texts.
        LogitsError: the model's logits are unusable.
    """
    reject_unknown("option", options, (*_SAMPLING, *_RENAMED, *_LOADING, *_OWN))
    options = {name: value for name, value in options.items() if value is not None}
    options.pop("use_cache", None)
    inputs, mask = options.pop("input_ids", inputs), options.pop("attention_mask", None)
    if isinstance(inputs, Mapping):
        mask, inputs = inputs.get("attention_mask", mask), inputs["input_ids"]
    device = inputs.device if isinstance(inputs, Tensor) else None
    given = _rows(inputs)
    prompts = given if mask is None else _unpadded(given, mask)
    samples = int(options.pop("num_return_sequences", 1))
    pad = options.pop("pad_token_id", None)
    loading = {name: options.pop(name) for name in _LOADING if name in options}
    if assistant_model is None and loading.get("qualifier") is None:
        loading["mode"] = "none"
    if not {"num_speculative_tokens", "num_qualified_tokens"} & loading.keys():
        # Fixed lengths: measuring costs in every call takes longer than it saves.
        loading["num_speculative_tokens"] = PyramidConfig().num_speculative_tokens
    engine = load(model, draft=assistant_model, tokenizer=tokenizer, **loading)
    width = max(len(row) for row in given)
    sampling = _sampling(options, width, engine.defaults.sampling or {})
    if streamer is None:
        written = _written(engine, prompts, samples, sampling)
    else:
        written = [_streamed(engine, given, prompts, samples, sampling, streamer)]
    copies = [row for row in given for _ in range(samples)]
    rows = [[*row, *tokens] for row, tokens in zip(copies, written, strict=True)]
    return _padded(rows, _pad_id(engine, sampling) if pad is None else pad).to(device)


def _rows(inputs: Any) -> list[list[int]]:
    """Convert a tensor, a list of tensors, or lists to lists of token ids."""
    rows = inputs.tolist() if isinstance(inputs, Tensor) else inputs
    if not rows:
        raise OptionError("there is no prompt", hint="Give token ids [batch, length]")
    return [rows] if isinstance(rows[0], int) else [list(row) for row in rows]


def _unpadded(rows: Sequence[Sequence[int]], mask: Any) -> list[list[int]]:
    return [
        [token for token, keep in zip(row, keeps, strict=True) if keep]
        for row, keeps in zip(rows, _rows(mask), strict=True)
    ]


def _sampling(
    options: Mapping[str, Any], width: int, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Translate options of `transformers` to those of `SamplingParams`."""
    given = {_RENAMED.get(name, name): value for name, value in options.items()}
    longest, shortest = given.pop("max_length", None), given.pop("min_length", None)
    if longest is not None and "max_new_tokens" not in given:
        if longest <= width:
            raise OptionError(
                f"max_length is {longest}, and the prompt has {width} tokens already",
                hint="Raise it, or give max_new_tokens",
            )
        given["max_new_tokens"] = longest - width
    if shortest is not None:
        given.setdefault("min_new_tokens", max(0, shortest - width))
    if "eos_token_id" in options:  # replaces the model's own end tokens
        given["ignore_eos"] = True
    do_sample = given.pop("do_sample", None)
    if do_sample or (do_sample is None and defaults.get("temperature")):
        return {"temperature": 1.0, "top_k": _TOP_K_WHEN_SAMPLING} | dict(defaults) | given
    return given if do_sample is None else given | {"temperature": 0.0}


def _written(
    engine: Generator, prompts: list[list[int]], samples: int, sampling: dict[str, Any]
) -> list[Sequence[int]]:
    """Generate the continuations; samples of one prompt are adjacent."""
    if samples > 1:
        results = [r for group in engine.generate(prompts, n=samples, **sampling) for r in group]
    else:
        results = engine.generate(prompts, **sampling)
    for result in results:
        if result.error is not None:
            raise LogitsError(result.error)
    return [result.token_ids for result in results]


def _streamed(
    engine: Generator,
    given: list[list[int]],
    prompts: list[list[int]],
    samples: int,
    sampling: dict[str, Any],
    streamer: Any,
) -> list[int]:
    if len(prompts) != 1 or samples != 1:
        raise OptionError("a streamer shows one text", hint="Give one prompt and one sample")
    put: Callable[[Tensor], None] = streamer.put
    put(torch.tensor(given))
    generation, rounds = engine.start(prompts[0], **sampling)
    shown = 0
    for _ in rounds:
        for token in generation.output[shown:]:
            put(torch.tensor([token]))
        shown = len(generation.output)
    streamer.end()
    if generation.error is not None:
        raise generation.error
    return generation.output


def _pad_id(engine: Generator, sampling: Mapping[str, Any]) -> int:
    """Return the pad token of the model, or else its first end token."""
    params = engine.params(**sampling)
    target = engine.strategy_for(params).target.info
    own = target.generation_defaults.get("pad_token_id")
    ends = (*params.stop_token_ids, *engine.defaults.end_ids)
    return next(iter(ends), 0) if own is None else int(own)


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
