"""What is told about one request in its span."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.engine.serving.messages import Ended, Submission

Value = str | bool | int | float | Sequence[str]
"""A value of an attribute."""


@dataclass(slots=True)
class Facts:
    """One request, filled as it becomes known.

    Attributes:
        model: the name of the model, as it was asked for.
        answer: the identifier of the answer.
        stream: whether the answer is a stream.
        submissions: what the engine was asked to do; empty if the request did not reach it.
        ends: the ends of its samples.
        outcome: `done`, `disconnected` or the code of an error; empty before the end.
    """

    model: str = ""
    answer: str = ""
    stream: bool = False
    submissions: Sequence[Submission] = ()
    ends: Sequence[Ended] = ()
    outcome: str = ""


def attributes(facts: Facts) -> dict[str, Value]:
    """Return the attributes of the conventions for generative models (`gen_ai.*`), and of ours.

    Texts of prompts and answers are not among them.
    """
    found: dict[str, Value] = {"gen_ai.provider.name": "outrider", "gen_ai.output.type": "text"}
    if facts.model:
        found |= {"gen_ai.request.model": facts.model, "gen_ai.response.model": facts.model}
    if facts.answer:
        found["gen_ai.response.id"] = facts.answer
    if facts.submissions:
        found |= _asked(facts)
    results = [ended.result for ended in facts.ends if ended.result is not None]
    if results:
        read = {ended.id: ended.result.prompt_tokens for ended in facts.ends if ended.result}
        cached = {ended.id: ended.timing.cached_tokens for ended in reversed(facts.ends)}
        found |= {
            "gen_ai.response.finish_reasons": [result.finish_reason for result in results],
            "gen_ai.usage.input_tokens": sum(read.values()),
            "gen_ai.usage.output_tokens": sum(result.completion_tokens for result in results),
            "gen_ai.usage.cache_read.input_tokens": sum(cached.values()),
            "outrider.drafted_tokens": sum(r.speculation.target.drafted for r in results),
            "outrider.accepted_tokens": sum(r.speculation.target.accepted for r in results),
            "outrider.preemptions": sum(ended.timing.preemptions for ended in facts.ends),
        }
    return found


def _asked(facts: Facts) -> dict[str, Value]:
    params, n = facts.submissions[0].params, sum(one.n for one in facts.submissions)
    found: dict[str, Value] = {
        "gen_ai.request.max_tokens": params.max_new_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.stream": facts.stream,
    }
    if n > 1:
        found["gen_ai.request.choice.count"] = n
    if params.top_k:
        found["gen_ai.request.top_k"] = params.top_k
    if params.seed is not None:
        found["gen_ai.request.seed"] = params.seed
    if params.frequency_penalty:
        found["gen_ai.request.frequency_penalty"] = params.frequency_penalty
    if params.presence_penalty:
        found["gen_ai.request.presence_penalty"] = params.presence_penalty
    if params.stop:
        found["gen_ai.request.stop_sequences"] = list(params.stop)
    return found


def phases(facts: Facts) -> dict[str, float]:
    """Return the seconds from the arrival until each phase began: `queue`, `prefill` (the prompt is
    read) and `decode` (the text is written); of the sample that was first."""
    if not facts.submissions:
        return {}
    found = {"queue": 0.0}
    timings = [ended.timing for ended in facts.ends]
    firsts = [t.first_token for t in timings if t.first_token is not None]
    if firsts:
        found |= {"prefill": min(timing.queued for timing in timings), "decode": min(firsts)}
    return found
