"""`create_app`: the application of one server."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from outrider.constraints.token_texts import TokenTexts
from outrider.core.errors import OptionError, OutriderError
from outrider.core.version import __version__
from outrider.engine.generator import Generator
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.client import EngineClient, ServingEngine
from outrider.server.constraints.admission import Admission
from outrider.server.context import Context
from outrider.server.endpoints import (
    chat,
    completions,
    health,
    messages,
    models,
    page,
    responses,
    search,
    tokens,
)
from outrider.server.errors import ApiError, from_outrider
from outrider.server.http.front import ID_HEADER, Front
from outrider.server.keys import Keys
from outrider.server.life import Life
from outrider.server.media.addresses import read_host
from outrider.server.media.fetching import Fetcher
from outrider.server.metrics import Metrics
from outrider.server.schema.chat import ChatBody
from outrider.server.schema.completions import CompletionBody, DetokenizeBody, TokenizeBody
from outrider.server.schema.documents import openapi_of
from outrider.server.schema.messages import CountBody, MessagesBody
from outrider.server.schema.responses import ResponsesBody
from outrider.server.schema.search import SearchBody
from outrider.server.settings import ServerSettings
from outrider.server.telemetry.spans import Telemetry
from outrider.server.tools.choice import reader_of
from outrider.strategy.description import lower_models

log = logging.getLogger("outrider.server")

MakeEngine = Callable[[EngineClient], ServingEngine]
"""Makes the engine that publishes to a client."""

_UNSUPPORTED = ("embeddings", "audio", "images", "files", "batches", "fine_tuning", "moderations")
_UNSUPPORTED += ("assistants", "threads", "vector_stores", "realtime", "uploads", "rerank", "score")

_BODIES = (ChatBody, CompletionBody, ResponsesBody, MessagesBody, CountBody)
_BODIES += (TokenizeBody, DetokenizeBody, SearchBody)


def create_app(
    generator: Generator,
    make_engine: MakeEngine,
    settings: ServerSettings | None = None,
    keys: Keys | None = None,
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """Return the application that serves one generator.

    The engine starts with the application, and stops with it.

    Args:
        generator: models, tokenizer and strategy.
        make_engine: makes the engine, given the client to which it publishes.
        settings: names and limits.
        keys: who may ask; None or no keys: everybody.
        telemetry: sends spans of requests; it is closed with the application.

    Raises:
        OptionError: the generator has no tokenizer, or a setting names what is not there.
    """
    settings = settings or ServerSettings()
    tokenizer = generator.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        raise OptionError(
            "the target has no tokenizer", hint="Serve a model from a folder with a tokenizer"
        )
    reader_of(tokenizer, settings.tool_parser, tools=(), prompt=())
    client = EngineClient()
    engine = make_engine(client)
    info = generator.strategy.target.info
    metrics = Metrics(settings.model_name, vllm=settings.vllm_metrics, kv_policy=info.kv_policy)
    context = Context(
        generator=generator,
        info=info,
        window=_window(
            engine, min(info.context_length, generator.context_length or info.context_length)
        ),
        tokenizer=tokenizer,
        settings=settings,
        client=client,
        keys=keys or Keys(),
        life=Life(client),
        metrics=metrics,
        fingerprint=_fingerprint(generator, tokenizer),
        texts=TokenTexts(tokenizer),
        admission=Admission(generator.grammars, metrics, settings.grammar_seconds),
        chunk_size=_chunk_size(generator),
        media=_fetcher(settings.media_hosts),
        telemetry=telemetry,
    )

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        client.attach(engine, asyncio.get_running_loop())
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)
            await asyncio.to_thread(context.admission.close)
            if context.telemetry is not None:
                await asyncio.to_thread(context.telemetry.close)
            context.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="Outrider",
        version=__version__,
        lifespan=running,
        docs_url=None,  # pages that load scripts from other servers
        redoc_url=None,
    )
    app.state.context = context
    client.attach(engine)
    metrics.attach(client)
    _add_routes(app)
    _add_layers(app, context)
    return app


def _chunk_size(generator: Generator) -> int | None:
    """Return the tokens of a chunk of a long input, if any model reads a selection of chunks."""
    strategy = generator.strategy
    models = (strategy.target, *lower_models(strategy.drafter))
    selects = any(model.selector is not None for model in models)
    return generator.selection.chunk_size if selects else None


def _window(engine: ServingEngine, most: int) -> int:
    """Return the largest number of tokens, up to `most`, for which the caches have room."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if engine.capacity_for(middle) else (low, middle - 1)
    return low


def _fetcher(hosts: tuple[str, ...]) -> Fetcher | None:
    return Fetcher(hosts=tuple(map(read_host, hosts))) if hosts else None


def _add_routes(app: FastAPI) -> None:
    for one in (chat, completions, responses, messages, models, tokens, health, page, search):
        app.include_router(one.router)
    app.openapi = lambda: openapi_of(app, _BODIES, app.state.context.settings.model_names)


def _add_layers(app: FastAPI, context: Context) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(OutriderError, _outrider_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Front, context=context)
    if context.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(context.settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[ID_HEADER, "retry-after", "x-outrider-ignored-fields"],
        )


async def _api_error(request: Request, error: Any) -> Response:
    return error.response(request.url.path)


async def _outrider_error(request: Request, error: Any) -> Response:
    return from_outrider(error).response(request.url.path)


async def _http_error(request: Request, error: Any) -> Response:
    """Answer for paths and methods that do not exist."""
    path = request.url.path
    if error.status_code == 404:
        part = path.removeprefix("/v1/").partition("/")[0].strip("/")
        code = "unsupported_endpoint" if part in _UNSUPPORTED else "not_found"
        return ApiError(404, code, f"there is no endpoint {path!r:.100}").response(path)
    if error.status_code == 405:
        message = f"{request.method} is not possible at {path!r:.100}"
        allowed = {"allow": error.headers["Allow"]} if error.headers else {}
        return ApiError(405, "method_not_allowed", message, headers=allowed).response(path)
    return ApiError(error.status_code, "invalid_value", str(error.detail)).response(path)


def _fingerprint(generator: Generator, tokenizer: Tokenizer) -> str:
    """Return a hash of everything that can change texts.

    With an exact strategy the drafter is no part of it, unless rows of a forward depend on each
    other.
    """
    strategy = generator.strategy
    info = strategy.target.info
    parts = [info.fingerprint, tokenizer.fingerprint, info.weights or str(info.dtype), info.cache]
    parts += [info.kv_policy] if info.kv_policy else []
    parts += [generator.mode, str(strategy.exactness), __version__]
    if strategy.target.selector is not None:
        parts.append(repr(generator.selection))
    if not info.batch_invariant or strategy.exactness.rank:
        parts.append(strategy.describe())
    return f"fp_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"
