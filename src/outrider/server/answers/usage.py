"""Counts of tokens, and figures of speed and drafting."""

from collections.abc import Iterable, Sequence
from typing import Any

from outrider.core.counters import Counters
from outrider.core.metrics import ratio
from outrider.engine.serving.messages import Ended, Submission
from outrider.server.answers.sample import Sample


def usage(
    submissions: Sequence[Submission],
    samples: Sequence[Sample],
    *,
    written: bool = True,
    reasoning_tokens: int = 0,
) -> dict[str, Any]:
    """Return the counts of tokens of a request.

    Args:
        submissions: the prompts; each is counted once.
        samples: all samples, those of the first prompt first.
        written: the tokens of the answer are part of it; false for echoes alone.
        reasoning_tokens: how many of them are reasoning.
    """
    ends = [sample.ended for sample in samples if sample.ended is not None]
    prompt = sum(_prompt_tokens(one, ends) for one in submissions)
    answer = sum(len(sample.token_ids) for sample in samples) if written else 0
    cached = {ended.id: ended.timing.cached_tokens for ended in reversed(ends)}
    details: dict[str, Any] = {"reasoning_tokens": reasoning_tokens}
    if any(one.prediction for one in submissions):
        drafted, accepted = _drafted(ends), _accepted(ends)
        details["accepted_prediction_tokens"] = accepted
        details["rejected_prediction_tokens"] = drafted - accepted
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
        "completion_tokens_details": details,
    }


def figures(submissions: Sequence[Submission], samples: Sequence[Sample]) -> dict[str, Any]:
    """Return figures of drafting as vLLM names them, and times as llama.cpp writes them."""
    ends = [sample.ended for sample in samples if sample.ended is not None]
    counters = list(_counters(ends))
    drafts = sum(c.rounds - c.undrafted_rounds for c in counters)
    drafted, accepted = _drafted(ends), _accepted(ends)
    return {
        "metrics": {
            "speculative_decoding": {
                "num_drafts": drafts,
                "num_draft_tokens": drafted,
                "num_accepted_tokens": accepted,
                "acceptance_rate": ratio(accepted, drafted),
                "mean_acceptance_length": 1 + ratio(accepted, drafts),
            }
        },
        "timings": _timings(submissions, samples, ends)
        | {
            "draft_n": drafted,
            "draft_n_accepted": accepted,
        },
    }


def _timings(
    submissions: Sequence[Submission], samples: Sequence[Sample], ends: Sequence[Ended]
) -> dict[str, Any]:
    read = sum(_prompt_tokens(one, ends) for one in submissions)
    read -= sum(ended.timing.cached_tokens for ended in ends if ended.index == 0)
    written = sum(len(sample.token_ids) for sample in samples)
    reading = max((ended.timing.reading for ended in ends), default=0.0)
    writing = max((ended.timing.writing for ended in ends), default=0.0)
    return {
        "queue_ms": 1000 * max((ended.timing.queued for ended in ends), default=0.0),
        "prompt_n": read,
        "prompt_ms": 1000 * reading,
        "prompt_per_second": ratio(read, reading),
        "predicted_n": written,
        "predicted_ms": 1000 * writing,
        "predicted_per_second": ratio(written, writing),
    }


def _prompt_tokens(submission: Submission, ends: Sequence[Ended]) -> int:
    """Count the tokens of a prompt; those of images are known after it was read."""
    results = (e.result for e in ends if e.id == submission.id and e.result is not None)
    first = next(results, None)
    return len(submission.prompt) if first is None else first.prompt_tokens


def _counters(ends: Iterable[Ended]) -> Iterable[Counters]:
    return (e.result.speculation.target for e in ends if e.result is not None)


def _drafted(ends: Iterable[Ended]) -> int:
    return sum(c.drafted for c in _counters(ends))


def _accepted(ends: Iterable[Ended]) -> int:
    return sum(c.accepted for c in _counters(ends))
