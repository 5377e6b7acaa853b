"""`/v1/responses`, without state."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outrider.server.answers.job import Job
from outrider.server.answers.responses import ResponseWriter
from outrider.server.endpoints.calling import calling_job
from outrider.server.endpoints.common import Accepted, accept, answered
from outrider.server.prompts.items import chat_messages, chat_tools
from outrider.server.prompts.rendering import Conversation, chat_prompt, known_values
from outrider.server.prompts.tool_choice import calling_of
from outrider.server.schema.documents import streamed_body
from outrider.server.schema.responses import ResponsesBody
from outrider.server.tools.choice import Reader

router = APIRouter()


@router.post("/v1/responses", openapi_extra=streamed_body(ResponsesBody))
async def responses(request: Request) -> Response:
    """Answer a conversation."""
    accepted = await accept(request, ResponsesBody)
    job, reader = await accepted.context.prepare(lambda: _job(accepted))
    return await answered(accepted, job.submissions, ResponseWriter(job, reader.make))


def _job(accepted: Accepted[ResponsesBody]) -> tuple[Job[ResponsesBody], Reader]:
    """Render the prompt and check the options; runs in a thread."""
    context, body = accepted.context, accepted.body
    body.check_supported()
    hints = {
        "reasoning_effort": body.reasoning.effort if body.reasoning is not None else None,
        "verbosity": body.text.verbosity if body.text is not None else None,
    }
    if body.stream_options is not None:  # streams of this form always end with the usage
        accepted.ignored.append("stream_options")
    values = known_values(hints, context.tokenizer)
    places = {"reasoning_effort": "reasoning.effort", "verbosity": "text.verbosity"}
    accepted.ignored += [
        places[name] for name, v in hints.items() if v is not None and name not in values
    ]
    tools = chat_tools(body.tools or ())
    for tool in tools:
        tool.check()
    asked = Conversation(
        messages=chat_messages(body),
        tools=tools,
        values=values | (body.chat_template_kwargs or {}),
    )
    guidance = context.generator.guidance
    prompt = chat_prompt(asked, context.tokenizer, "input", guidance=guidance)
    calling = calling_of(tools, body.tool_choice, body.parallel_tool_calls)
    return calling_job(accepted, "resp", prompt, calling, param="input")
