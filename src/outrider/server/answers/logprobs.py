"""Log-probabilities in the shapes of chat and of text completions."""

from collections.abc import Sequence
from typing import Any

from outrider.constraints.token_texts import TokenTexts
from outrider.decoding.generation import TokenLogprob

_LEAST = -9999.0
"""Stands for an impossible token: JSON has no infinity."""


def chat_logprobs(
    found: Sequence[TokenLogprob], top: int, texts: TokenTexts
) -> list[dict[str, Any]]:
    """Return the entries of `logprobs.content`."""
    return [
        {
            **_token(one.token, one.logprob, texts),
            "top_logprobs": [_token(token, value, texts) for token, value in one.top[:top]],
        }
        for one in found
    ]


def completion_logprobs(
    found: Sequence[TokenLogprob | None],
    tokens: Sequence[int],
    offsets: Sequence[int],
    top: int,
    texts: TokenTexts,
) -> dict[str, Any]:
    """Return the object `logprobs` of a text completion.

    Args:
        found: per token; None for the first token of a prompt, which follows nothing.
        tokens: their ids.
        offsets: where the text of each begins.
        top: number of alternatives for each token.
        texts: texts of tokens.
    """
    return {
        "tokens": [texts.text(token) for token in tokens],
        "token_logprobs": [None if one is None else at_least(one.logprob) for one in found],
        "top_logprobs": [None if one is None else _alternatives(one, top, texts) for one in found],
        "text_offset": list(offsets),
    }


def prompt_logprobs(
    found: Sequence[TokenLogprob | None], texts: TokenTexts
) -> list[dict[str, Any] | None]:
    """Return log-probabilities of a prompt as vLLM writes them: by id, for each token."""
    return [None if one is None else _ranked(one, texts) for one in found]


def at_least(logprob: float) -> float:
    """Return a log-probability that JSON can hold."""
    return max(logprob, _LEAST)


def _token(token: int, logprob: float, texts: TokenTexts) -> dict[str, Any]:
    return {
        "token": texts.text(token),
        "logprob": at_least(logprob),
        "bytes": list(texts.bytes_of(token)),
    }


def _alternatives(one: TokenLogprob, top: int, texts: TokenTexts) -> dict[str, float]:
    """Return the most probable tokens by text, and the token itself."""
    found = {texts.text(token): at_least(value) for token, value in reversed(one.top[:top])}
    return found | {texts.text(one.token): at_least(one.logprob)}


def _ranked(one: TokenLogprob, texts: TokenTexts) -> dict[str, Any]:
    ranks = {token: (value, rank) for rank, (token, value) in enumerate(one.top, start=1)}
    entries: dict[int, tuple[float, int | None]] = {one.token: (one.logprob, None), **ranks}
    return {
        str(token): {"logprob": at_least(value), "rank": rank, "decoded_token": texts.text(token)}
        for token, (value, rank) in entries.items()
    }
