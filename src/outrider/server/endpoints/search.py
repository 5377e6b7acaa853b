"""`/v1/search`: several texts or branches of one prompt, the best ones with scores."""

import asyncio
import time
from dataclasses import replace
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.types import Receive

from outrider.core.errors import OutriderError
from outrider.core.types import Prompt
from outrider.engine.searches.searching import chosen
from outrider.engine.serving.jobs import SearchJob, SearchNotRunError
from outrider.engine.serving.scheduler import EXPECTED
from outrider.engine.serving.searches import SearchingEngine
from outrider.inputs.prompts.reading import read_prompt
from outrider.search import Limits, SearchResult
from outrider.search.account import SearchStoppedError
from outrider.search.scorers.scorer import ScorerError
from outrider.server.client import ServingEngine
from outrider.server.context import Context
from outrider.server.endpoints.common import Accepted, accept, ignored_header, json_response
from outrider.server.errors import ApiError, from_outrider, invalid, retry_later, unsupported
from outrider.server.http.leaving import ClientLeft, watched
from outrider.server.ids import new_id
from outrider.server.prompts.rendering import Conversation, chat_prompt
from outrider.server.schema.documents import described_body
from outrider.server.schema.search import SearchBody
from outrider.server.searches.settings import SearchSettings

router = APIRouter()

_WAITING = 8
"""Searches that may be open at once; then 429."""
_OFF = "the server was started without --allow-search"

_SAMPLING = (
    *("temperature", "top_p", "top_k", "seed", "stop_token_ids", "ignore_eos"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty"),
)
"""Fields that are options of sampling."""


@router.post("/v1/search", openapi_extra=described_body(SearchBody))
async def search(request: Request) -> Response:
    """Search, and return the best texts."""
    accepted = await accept(request, SearchBody)
    context = accepted.context
    _allowed(context.settings.searches)
    engine = _engine_for(context.client.engine)
    job, prompt = await context.prepare(lambda: _job(accepted))
    found = await _searched(engine, job, request.receive)
    answer = _answer(accepted.body, found, len(prompt))
    return json_response(answer, ignored_header(accepted.ignored))


def _job(accepted: Accepted[SearchBody]) -> tuple[SearchJob, Prompt]:
    """Read the prompt and check the strategy; runs in a thread."""
    context, body = accepted.context, accepted.body
    settings = _allowed(context.settings.searches)
    for field in ("stop", "stream"):
        if getattr(body, field):
            raise unsupported(field, "a search returns whole texts")
    if (n := body.n or 1) > context.settings.max_n:
        raise invalid(f"n is {n}. Give at most {context.settings.max_n}", "n")
    scorer = settings.scorer(body.scorer)
    given = {name: getattr(body, name) for name in _SAMPLING} | {"max_new_tokens": body.max_tokens}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    prompt = _prompt(body, context)
    limits = Limits(
        tokens=min(body.budget_tokens or settings.tokens, settings.tokens),
        seconds=min(
            body.budget_seconds or settings.seconds,
            settings.seconds,
            context.settings.request_timeout,
        ),
        rows=settings.rows,
    )
    try:
        settings.check(body.search)
        made, name, _ = chosen(body.search, {})
    except OutriderError as error:
        raise from_outrider(error, "search") from None
    if made.reads_files:
        raise invalid(f"{name} would read files of the server. Leave its path out", "search")
    generator = context.generator
    job = SearchJob(
        run=lambda engine: generator.search(
            body.search,
            prompt,
            scorer=scorer,
            budget=limits,
            cancelled=engine.ends,
            prompt_rows=engine.rows,
            **options,
        ),
        begin_by=perf_counter() + context.settings.queue_timeout,
        principal=accepted.asker.principal(body.user),
        level=accepted.asker.best_class,
        prompt=len(prompt),
        most=body.max_tokens or EXPECTED,
    )
    return job, prompt


def _prompt(body: SearchBody, context: Context) -> Prompt:
    if (body.prompt is None) == (body.messages is None):
        raise invalid("give either prompt or messages", "prompt")
    guidance, tokenizer = context.generator.guidance, context.tokenizer
    if body.messages is not None:
        asked = Conversation(messages=body.messages, contrast=body.contrast)
        return chat_prompt(asked, tokenizer, guidance=guidance)
    if isinstance(body.contrast, list):
        raise invalid("prompt is a text, and contrast holds messages. Give a text", "contrast")
    text = body.prompt or ""
    other = guidance.contrast(text) if guidance and body.contrast is None else body.contrast
    try:
        prompt = Prompt(token_ids=tokenizer.encode(text))
        twin = None if other is None else read_prompt(other, tokenizer)
    except OutriderError as error:
        raise from_outrider(error, "prompt") from None
    return replace(prompt, contrast=twin)


def _answer(body: SearchBody, found: SearchResult, prompt_tokens: int) -> dict[str, Any]:
    shown = found.to_dict()
    shown["candidates"] = shown["candidates"][: body.n or 1]
    return {
        "id": new_id("search"),
        "object": "search",
        "created": int(time.time()),
        "model": body.model,
        **shown,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": found.tokens,
            "total_tokens": prompt_tokens + found.tokens,
        },
    }


def _engine_for(engine: ServingEngine) -> SearchingEngine:
    """Return the engine if it runs searches. Raises `ApiError` if it does not."""
    if not isinstance(engine, SearchingEngine):
        raise unsupported("search", "several replicas serve this model")
    return engine


def _allowed(settings: SearchSettings | None) -> SearchSettings:
    """Return the settings of searches. Raises `ApiError` if they are not allowed."""
    if settings is None:
        raise unsupported("search", _OFF)
    return settings


async def _searched(engine: SearchingEngine, job: SearchJob, receive: Receive) -> SearchResult:
    """Run a search; it is cancelled when the client closes the connection.

    Raises:
        ApiError: too many searches wait, or it failed.
        ClientLeft: the client has left.
    """

    def leave() -> None:
        job.cancelled = True
        engine.wake()

    if not engine.search(job, places=_WAITING):
        message = f"{_WAITING} searches are open; try again later"
        raise retry_later(429, "queue_full", message, 10.0)
    try:
        async with watched(receive, leave):
            found = await asyncio.shield(asyncio.wrap_future(job.result))
    except asyncio.CancelledError:
        leave()
        raise
    except SearchNotRunError as error:
        raise retry_later(429, "queue_full", error.problem, 10.0) from None
    except (ScorerError, SearchStoppedError) as error:
        raise ApiError(422, "search_failed", str(error), "search") from None
    except OutriderError as error:
        raise from_outrider(error, "search") from None
    if job.cancelled:
        raise ClientLeft
    return found
