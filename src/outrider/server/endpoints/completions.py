"""`/v1/completions`: a text is continued."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outrider.server.answers.job import Job
from outrider.server.answers.texts import CompletionWriter
from outrider.server.endpoints.common import Accepted, accept, answered, job_of, submissions_for
from outrider.server.errors import invalid
from outrider.server.prompts.rendering import completion_prompt
from outrider.server.schema.completions import CompletionBody
from outrider.server.schema.documents import streamed_body

router = APIRouter()


@router.post("/v1/completions", openapi_extra=streamed_body(CompletionBody))
async def completions(request: Request) -> Response:
    """Continue one text or several."""
    accepted = await accept(request, CompletionBody)
    job = await accepted.context.prepare(lambda: _job(accepted))
    return await answered(accepted, job.submissions, CompletionWriter(job))


def _job(accepted: Accepted[CompletionBody]) -> Job[CompletionBody]:
    """Tokenise the prompts and check the options; runs in a thread."""
    context, body = accepted.context, accepted.body
    most = context.settings.max_prompts
    if len(body.prompts) > most:
        raise invalid(f"{len(body.prompts)} prompts are given. Give at most {most}", "prompt")
    if body.limit == 0 and not body.echo:
        raise invalid("max_tokens is 0, and there is no echo. Give at least 1", "max_tokens")
    guidance = context.generator.guidance
    prompts = [
        completion_prompt(given, body, context.tokenizer, guidance) for given in body.prompts
    ]
    scores = [
        v for v in (body.logprobs if body.echo else None, body.prompt_logprobs) if v is not None
    ]
    all_shown = body.skip_special_tokens is False
    submissions = submissions_for(
        accepted,
        prompts,
        param="prompt",
        shown=frozenset(context.tokenizer.special_texts if all_shown else ()),
        score_prompt=max(scores, default=None),
    )
    return job_of(accepted, "cmpl", submissions)
