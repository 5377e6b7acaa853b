"""`/v1/messages` and `/v1/messages/count_tokens`, in the interface of Anthropic."""

from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outrider.server.answers.job import Job
from outrider.server.answers.messages import MessageWriter
from outrider.server.endpoints.calling import calling_job
from outrider.server.endpoints.common import (
    Accepted,
    accept,
    answered,
    ignored_header,
    json_response,
)
from outrider.server.errors import unsupported
from outrider.server.prompts.rendering import Conversation, chat_prompt, known_values
from outrider.server.prompts.tool_choice import calling_of
from outrider.server.prompts.turns import conversation_of, hints_of
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
    accepted = await accept(request, CountBody, fetch=False)
    count = await accepted.context.prepare(lambda: _count(accepted))
    return json_response({"input_tokens": count}, ignored_header(accepted.ignored))


def _count(accepted: Accepted[CountBody]) -> int:
    """Return how many tokens a conversation has; runs in a thread."""
    asked = _asked(accepted)
    if asked.shows_images:
        raise unsupported("messages", "the tokens of images are known when they have been read")
    return len(chat_prompt(asked, accepted.context.tokenizer))


def _job(accepted: Accepted[MessagesBody]) -> tuple[Job[MessagesBody], Reader]:
    """Render the prompt and check the options; runs in a thread."""
    body = accepted.body
    asked = _asked(accepted)
    context = accepted.context
    prompt = chat_prompt(asked, context.tokenizer, guidance=context.generator.guidance)
    user = (body.metadata or {}).get("user_id")
    body.user = user if isinstance(user, str) else None
    calling = calling_of(asked.tools, body.choice, body.parallel)
    return calling_job(accepted, "msg", prompt, calling, param="messages")


def _asked(accepted: Accepted[C]) -> Conversation:
    """Return the conversation that a request asks to render."""
    body = accepted.body
    body.check_supported()
    hints = hints_of(body)
    known = known_values(hints, accepted.context.tokenizer)
    places = {"enable_thinking": "thinking", "reasoning_effort": "output_config.effort"}
    # A model whose template knows no reasoning does not reason anyway.
    accepted.ignored += [places[name] for name, v in hints.items() if v and name not in known]
    return conversation_of(body, known)
