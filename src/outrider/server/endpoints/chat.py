"""`/v1/chat/completions`, and the prompt that it would read."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outrider.server.answers.chat import ChatWriter
from outrider.server.answers.job import Job
from outrider.server.endpoints.common import (
    Accepted,
    accept,
    answered,
    call_parser,
    ignored_header,
    job_of,
    json_response,
    submissions_for,
)
from outrider.server.errors import unsupported
from outrider.server.prompts.rendering import (
    HINTS,
    chat_prompt,
    conversation_of,
    known_values,
    prediction_ids,
)
from outrider.server.schema.chat import ChatBody
from outrider.server.schema.documents import described_body, streamed_body

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=streamed_body(ChatBody))
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    accepted = await accept(request, ChatBody)
    job = await accepted.context.prepare(lambda: _job(accepted))
    tools = bool(job.body.tools) and job.body.tool_choice != "none"
    parser = call_parser(accepted, job, tools=tools)
    return await answered(accepted, job.submissions, ChatWriter(job, parser))


@router.post("/v1/chat/completions/render", openapi_extra=described_body(ChatBody))
async def render(request: Request) -> Response:
    """Return the prompt that a chat request would read, as text and as ids."""
    accepted = await accept(request, ChatBody)
    context, body = accepted.context, accepted.body
    body.check_unconstrained()
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
    tokenizer = accepted.context.tokenizer
    ids = list(chat_prompt(conversation_of(accepted.body, tokenizer), tokenizer).token_ids)
    return ids, tokenizer.decode_all(ids)


def _job(accepted: Accepted[ChatBody]) -> Job[ChatBody]:
    """Render the prompt and check the options; runs in a thread."""
    context, body = accepted.context, accepted.body
    body.check_unconstrained()
    _name_hints(accepted)
    prompt = chat_prompt(conversation_of(body, context.tokenizer), context.tokenizer)
    scores = body.prompt_logprobs
    if scores is not None and body.stream:
        raise unsupported("prompt_logprobs", "it is part of answers without stream only")
    submissions = submissions_for(
        accepted,
        [prompt],
        param="messages",
        score_prompt=scores,
        prediction=prediction_ids(body, context.tokenizer),
    )
    return job_of(accepted, "chatcmpl", submissions)


def _name_hints(accepted: Accepted[ChatBody]) -> None:
    """List hints that the chat template does not know among the ignored fields."""
    hints = {name: getattr(accepted.body, name) for name in HINTS}
    known = known_values(hints, accepted.context.tokenizer)
    accepted.ignored += [n for n, v in hints.items() if v is not None and n not in known]
