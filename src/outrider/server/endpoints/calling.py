"""What the endpoints of conversations share: jobs whose answers may hold calls."""

from typing import Any, TypeVar

from outrider.core.types import Prompt
from outrider.sampling.constraint import Constraint
from outrider.server.answers.job import Job
from outrider.server.endpoints.common import Accepted, job_of, submissions_for
from outrider.server.errors import invalid
from outrider.server.prompts.tool_choice import Calling, calls_constraint
from outrider.server.schema.sampling import SamplingBody
from outrider.server.tools.choice import Reader, reader_of
from outrider.server.tools.reasoning import gate_after

T = TypeVar("T", bound=SamplingBody)


def calling_job(
    accepted: Accepted[T],
    kind: str,
    prompt: Prompt,
    calling: Calling,
    *,
    param: str,
    score_prompt: int | None = None,
    prediction: tuple[int, ...] = (),
) -> tuple[Job[T], Reader]:
    """Return the job of a conversation, and how its answers are read; for a thread of the pool.

    Args:
        accepted: the request.
        kind: the begin of identifiers of its answers.
        prompt: its prompt.
        calling: what it asks of calls.
        param: the field that holds its messages, for errors.
        score_prompt: log-probabilities of the prompt are wanted, with this many alternatives.
        prediction: tokens of the predicted text.

    Raises:
        ApiError: as `submissions_for`, or calls cannot be enforced.
    """
    reader = _reader(accepted, prompt, calling)
    submissions = submissions_for(
        accepted,
        [prompt],
        param=param,
        shown=reader.shown,
        score_prompt=score_prompt,
        prediction=prediction,
        gate=gate_after(accepted.context.tokenizer, prompt.token_ids),
        calls=_constraint(accepted, prompt, calling),
    )
    return job_of(accepted, kind, submissions), reader


def _constraint(accepted: Accepted[Any], prompt: Prompt, calling: Calling) -> Constraint | None:
    """Return the grammar of an answer with calls. Raises `ApiError`."""
    context = accepted.context
    found = calls_constraint(
        calling,
        context.tokenizer,
        context.settings.tool_parser,
        prompt.token_ids,
        context.generator.defaults.end_ids,
    )
    if found is not None and accepted.body.ignore_eos:
        raise invalid("ignore_eos is given together with calls that are required", "ignore_eos")
    return found


def _reader(accepted: Accepted[Any], prompt: Prompt, calling: Calling) -> Reader:
    """Return how the answers are read; calls are looked for if there are tools to choose."""
    context, body = accepted.context, accepted.body
    return reader_of(
        context.tokenizer,
        context.settings.tool_parser,
        tools=calling.tools,
        prompt=prompt.token_ids,
        special=body.skip_special_tokens is False,
        custom=None if calling.custom is None else calling.custom.name,
    )
