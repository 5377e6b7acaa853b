"""`/v1/messages` and `/v1/messages/count_tokens`, in the interface of Anthropic."""

from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outrider.core.types import Prompt
from outrider.server.answers.job import Job
from outrider.server.answers.messages import MessageWriter
from outrider.server.endpoints.common import (
    Accepted,
    accept,
    answered,
    constraint_for,
    gate_for,
    ignored_header,
    job_of,
    json_response,
    reader_for,
    submissions_for,
)
from outrider.server.errors import unsupported
from outrider.server.prompts.rendering import chat_prompt, known_values
from outrider.server.prompts.tool_choice import calling_of
from outrider.server.prompts.turns import chat_tools, conversation_of, hints_of
from outrider.server.schema.documents import described_body, streamed_body
from outrider.server.schema.messages import CountBody, MessagesBody
from outrider.server.tools.choice import Reader

router = APIRouter()

C = TypeVar("C", bound=CountBody)


@router.post("/v1/messages", openapi_extra=streamed_body(MessagesBody))
async def messages(request: Request) -> Response:
    """Answer a conversation."""
    accepted = await accept(request, MessagesBody)
    job, reader = await accepted.context.prepare(lambda: _job(accepted))
    return await answered(accepted, job.submissions, MessageWriter(job, reader.make))


@router.post("/v1/messages/count_tokens", openapi_extra=described_body(CountBody))
async def count_tokens(request: Request) -> Response:
    """Count the tokens that a conversation has as a prompt."""
    accepted = await accept(request, CountBody)
    prompt = await accepted.context.prepare(lambda: _prompt(accepted))
    if prompt.image_prompt is not None:
        raise unsupported("messages", "the tokens of images are known when they have been read")
    return json_response({"input_tokens": len(prompt)}, ignored_header(accepted.ignored))


def _job(accepted: Accepted[MessagesBody]) -> tuple[Job[MessagesBody], Reader]:
    """Render the prompt and check the options; runs in a thread."""
    body = accepted.body
    prompt = _prompt(accepted)
    user = (body.metadata or {}).get("user_id")
    body.user = user if isinstance(user, str) else None
    calling = calling_of(chat_tools(body.tools or ()), body.choice, body.parallel)
    reader = reader_for(accepted, prompt, calling)
    calls = constraint_for(accepted, prompt, calling)
    submissions = submissions_for(
        accepted,
        [prompt],
        param="messages",
        shown=reader.shown,
        gate=gate_for(accepted, prompt),
        calls=calls,
    )
    return job_of(accepted, "msg", submissions), reader


def _prompt(accepted: Accepted[C]) -> Prompt:
    tokenizer, body = accepted.context.tokenizer, accepted.body
    body.check_supported()
    hints = hints_of(body)
    known = known_values(hints, tokenizer)
    places = {"enable_thinking": "thinking", "reasoning_effort": "output_config.effort"}
    # A model whose template knows no reasoning does not reason anyway.
    accepted.ignored += [places[name] for name, v in hints.items() if v and name not in known]
    return chat_prompt(conversation_of(body, tokenizer), tokenizer)
