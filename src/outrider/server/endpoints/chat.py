"""`/v1/chat/completions`, and the prompt that it would read."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outrider.core.types import Prompt
from outrider.server.answers.chat import ChatWriter
from outrider.server.answers.job import Job
from outrider.server.endpoints.calling import calling_job
from outrider.server.endpoints.common import (
    Accepted,
    accept,
    answered,
    ignored_header,
    json_response,
)
from outrider.server.prompts.rendering import (
    HINTS,
    chat_prompt,
    conversation_of,
    known_values,
    prediction_ids,
)
from outrider.server.prompts.tool_choice import calling_of
from outrider.server.schema.chat import ChatBody
from outrider.server.schema.documents import described_body, streamed_body
from outrider.server.tools.choice import Reader

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=streamed_body(ChatBody))
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    accepted = await accept(request, ChatBody)
    job, reader = await accepted.context.prepare(lambda: _job(accepted))
    return await answered(accepted, job.submissions, ChatWriter(job, reader.make))


@router.post("/v1/chat/completions/render", openapi_extra=described_body(ChatBody))
async def render(request: Request) -> Response:
    """Return the prompt that a chat request would read, as text and as ids."""
    accepted = await accept(request, ChatBody)
    context, body = accepted.context, accepted.body
    body.check_supported()
    _name_hints(accepted)
    ids, text = await context.prepare(lambda: _rendered(accepted))
    found = {
        "object": "chat.completion.prompt",
        "model": context.settings.model_name,
        "prompt": text,
        "prompt_token_ids": ids,
        "count": len(ids),
        "max_model_len": context.window,
    }
    return json_response(found, ignored_header(accepted.ignored))


def _rendered(accepted: Accepted[ChatBody]) -> tuple[list[int], str]:
    """Return the ids of the prompt and its text; runs in a thread."""
    ids = list(_prompt(accepted).token_ids)
    return ids, accepted.context.tokenizer.decode_all(ids)


def _prompt(accepted: Accepted[ChatBody]) -> Prompt:
    context = accepted.context
    asked = conversation_of(accepted.body, context.tokenizer)
    return chat_prompt(
        asked,
        context.tokenizer,
        chunk_size=context.chunk_size,
        guidance=context.generator.guidance,
    )


def _job(accepted: Accepted[ChatBody]) -> tuple[Job[ChatBody], Reader]:
    """Render the prompt and check the options; runs in a thread."""
    context, body = accepted.context, accepted.body
    body.check_supported()
    _name_hints(accepted)
    prompt = _prompt(accepted)
    calling = calling_of(body.tools, body.tool_choice, body.parallel_tool_calls)
    return calling_job(
        accepted,
        "chatcmpl",
        prompt,
        calling,
        param="messages",
        score_prompt=body.prompt_logprobs,
        prediction=prediction_ids(body, context.tokenizer),
    )


def _name_hints(accepted: Accepted[ChatBody]) -> None:
    """List hints that the chat template does not know among the ignored fields."""
    hints = {name: getattr(accepted.body, name) for name in HINTS}
    known = known_values(hints, accepted.context.tokenizer)
    accepted.ignored += [n for n, v in hints.items() if v is not None and n not in known]
