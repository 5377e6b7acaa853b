"""`outrider.generate`: the call that people who come from `transformers` already write."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from outrider.engine.load import load
from outrider.errors import OptionError, reject_unknown

_TOP_K_WHEN_SAMPLING = 50
"""What `transformers` keeps when sampling and nothing is said about top_k."""

_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "seed",
    "min_new_tokens",
    "max_new_tokens",
)
_RENAMED = {
    "logits_processor": "logits_processors",
    "stopping_criteria": "stopping_criteria",
    "stop_strings": "stop",
    "eos_token_id": "stop_token_ids",
}
_LOADING = (
    "mode",
    "num_speculative_tokens",
    "num_qualified_tokens",
    "divergence",
    "threshold_qualifier",
    "threshold_target",
    "max_changed",
    "qualifier",
)
_OWN = ("attention_mask", "do_sample", "max_length", "num_return_sequences", "pad_token_id")


def generate(
    model: Any,
    inputs: Any,
    *,
    assistant_model: Any = None,
    tokenizer: Any = None,
    streamer: Any = None,
    **options: Any,
) -> Tensor:
    """`model.generate(inputs, assistant_model=...)`, through Outrider's round.

    Args:
        model: a built causal model of `transformers`, a folder, a hub name or a `LanguageModel`.
        inputs: token ids `[batch, length]` (padding is recognised by `attention_mask`), a mapping
            with `input_ids`, or lists of ids.
        assistant_model: the draft model; None decodes undrafted.
        tokenizer: needed for `stop_strings`.
        streamer: `put(tokens)` and `end()`, as in `transformers`; one prompt, one sample.
        **options: sampling options under their names in `transformers` (`do_sample`,
            `temperature`, `max_new_tokens`, `max_length`, `num_return_sequences`,
            `logits_processor`, ...), and those of `outrider.load` (`qualifier`, `mode`, ...).

    Returns:
        Prompt and continuation, `[batch * samples, longest]`, padded on the right.

    Raises:
        OptionError: an option is unknown, or a streamer is given for several texts.
    """
    reject_unknown("option", options, (*_SAMPLING, *_RENAMED, *_LOADING, *_OWN))
    mask = options.pop("attention_mask", None)
    if isinstance(inputs, Mapping):
        mask, inputs = inputs.get("attention_mask"), inputs["input_ids"]
    prompts = _unpadded(inputs, mask)
    samples = int(options.pop("num_return_sequences", 1))
    pad = options.pop("pad_token_id", None)
    loading = {name: options.pop(name) for name in _LOADING if name in options}
    if assistant_model is None and loading.get("qualifier") is None:
        loading["mode"] = "none"
    engine = load(model, draft=assistant_model, tokenizer=tokenizer, **loading)
    sampling = _sampling(options, max(len(p) for p in prompts))
    if streamer is not None:
        rows = [_streamed(engine, prompts, samples, sampling, streamer)]
    else:
        grouped = engine.generate(prompts, n=samples, **sampling)
        results = [r for group in grouped for r in (group if samples > 1 else [group])]
        copies = [p for p in prompts for _ in range(samples)]
        rows = [[*p, *r.token_ids] for p, r in zip(copies, results, strict=True)]
    return _padded(rows, pad if pad is not None else next(iter(engine.defaults.end_ids), 0))


def _unpadded(inputs: Any, mask: Any) -> list[list[int]]:
    if isinstance(inputs, Tensor):
        inputs = inputs.tolist() if inputs.dim() == 2 else [inputs.tolist()]
    elif inputs and isinstance(inputs[0], int):
        inputs = [inputs]
    if mask is None:
        return [list(row) for row in inputs]
    kept = torch.as_tensor(mask).bool().tolist()
    return [
        [token for token, keep in zip(row, keeps, strict=True) if keep]
        for row, keeps in zip(inputs, kept, strict=True)
    ]


def _sampling(options: dict[str, Any], longest: int) -> dict[str, Any]:
    """Options of `SamplingParams` for those of `transformers`."""
    given = {_RENAMED.get(name, name): value for name, value in options.items()}
    max_length = given.pop("max_length", None)
    if max_length is not None and "max_new_tokens" not in given:
        given["max_new_tokens"] = max_length - longest
    do_sample = given.pop("do_sample", None)
    if do_sample:
        given = {"temperature": 1.0, "top_k": _TOP_K_WHEN_SAMPLING} | given
    elif do_sample is not None:
        given["temperature"] = 0.0
    return given


def _streamed(
    engine: Any,
    prompts: Sequence[list[int]],
    samples: int,
    sampling: dict[str, Any],
    streamer: Any,
) -> list[int]:
    if len(prompts) != 1 or samples != 1:
        raise OptionError("a streamer shows one text", hint="Give one prompt and one sample")
    put: Callable[[Tensor], None] = streamer.put
    put(torch.tensor([prompts[0]]))
    generation, rounds = engine.start(prompts[0], **sampling)
    shown = 0
    for _ in rounds:
        for token in generation.output[shown:]:
            put(torch.tensor([token]))
        shown = len(generation.output)
    streamer.end()
    return [*prompts[0], *generation.output]


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
