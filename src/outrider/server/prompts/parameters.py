"""The sampling options of a request, in the names of the library."""

from typing import Any

from outrider.server.errors import invalid
from outrider.server.schema.sampling import SamplingBody

_BAN = -100.0
"""The bias with which OpenAI bans a token."""

_SAME = ("frequency_penalty", "presence_penalty", "seed", "temperature", "top_p", "min_p")
_SAME += ("typical_p", "repetition_penalty", "ignore_eos", "stop_token_ids")

_DEFAULTS = {"temperature": 1.0, "top_p": 1.0}
"""Defaults of OpenAI, where the checkpoint has none."""


def sampling_options(
    body: SamplingBody, recommended: dict[str, Any], vocab_size: int
) -> dict[str, Any]:
    """Return the options of `SamplingParams` for one request.

    Args:
        body: the request.
        recommended: what the checkpoint recommends; it takes precedence over the defaults of
            OpenAI.
        vocab_size: size of the vocabulary.

    Raises:
        ApiError: a bias names no token.
    """
    found: dict[str, Any] = {k: v for k, v in _DEFAULTS.items() if k not in recommended}
    found |= {name: v for name in _SAME if (v := getattr(body, name)) is not None}
    if body.top_k is not None:
        found["top_k"] = max(body.top_k, 0)
    if body.stops:
        found["stop"] = tuple(body.stops)
    if body.min_tokens is not None:
        found["min_new_tokens"] = body.min_tokens
    if body.limit is not None:
        found["max_new_tokens"] = max(body.limit, 1)
        if (body.min_tokens or 0) > found["max_new_tokens"]:
            raise invalid(
                f"min_tokens is {body.min_tokens}, above the limit of {body.limit}", "min_tokens"
            )
    if body.top is not None:
        found["logprobs"] = body.top
    found |= _biases(body, vocab_size)
    return found


def _biases(body: SamplingBody, vocab_size: int) -> dict[str, Any]:
    biases: dict[int, float] = {}
    for text, bias in (body.logit_bias or {}).items():
        if not (text.isdecimal() and len(text) < 12 and int(text) < vocab_size):
            raise invalid(
                f"logit_bias holds {text!r:.40}. Give ids of tokens, below {vocab_size}",
                "logit_bias",
            )
        biases[int(text)] = bias
    banned = tuple(token for token, bias in biases.items() if bias <= _BAN)
    added = {token: bias for token, bias in biases.items() if bias > _BAN}
    return ({"logit_bias": added} if added else {}) | ({"banned_tokens": banned} if banned else {})
