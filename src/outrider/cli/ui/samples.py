"""Combines several samples of one prompt in one JSON object."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider.engine.result import Result


def combined(results: Sequence["Result"]) -> dict[str, Any]:
    """Build the output of `--json`: `Result.to_dict()` of one sample; of several, with `choices`.

    With several samples, `text`, `token_ids`, `finish_reason` and `seed` are those of the first.
    `completion_tokens` and all counts of `speculation` are sums over the samples; ratios are
    computed from the sums. The samples share every forward, so `seconds` are those of the slowest
    sample, and `tokens_per_second` is the number of all tokens divided by that time.
    """
    first = results[0]
    if len(results) == 1:
        return first.to_dict()
    tokens = sum(r.completion_tokens for r in results)
    seconds = {part: max(r.seconds[part] for r in results) for part in first.seconds}
    return first.to_dict() | {
        "completion_tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": _rate(tokens, seconds),
        "speculation": _summed(results),
        "choices": [_choice(r) for r in results],
    }


def _choice(result: "Result") -> dict[str, Any]:
    whole = result.to_dict()
    kept = ("text", "token_ids", "finish_reason", "error")
    return {name: whole[name] for name in kept if name in whole}


def _summed(results: Sequence["Result"]) -> dict[str, Any]:
    from outrider.core import metrics

    parts = [r.speculation for r in results]
    stages = {
        name: metrics.total([p.stages[name] for p in parts if name in p.stages])
        for name in parts[0].stages
    }
    target = metrics.total([p.target for p in parts])
    whole = replace(parts[0], target=target, stages=stages, predicted_tokens_per_second=None)
    return whole.to_dict()


def _rate(tokens: int, seconds: dict[str, float]) -> float:
    from outrider.core import metrics

    return metrics.ratio(tokens, seconds["total"] - seconds["prefill"])
