"""Health, load, version and metrics."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from outrider.core.version import __version__
from outrider.server.context import context_of
from outrider.server.endpoints.common import json_response

router = APIRouter()


@router.get("/live")
async def live() -> Response:
    """Answer as long as the process lives."""
    return json_response({"status": "ok"})


@router.get("/health")
async def health(request: Request) -> Response:
    """Answer 503 if the engine is dead, or makes no steps although work waits."""
    if (sick := context_of(request).life.sick()) is not None:
        raise sick
    return json_response({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Answer 503 if new work is refused."""
    if (refusal := context_of(request).life.refusal()) is not None:
        raise refusal
    return json_response({"status": "ok"})


@router.get("/version")
async def version() -> Response:
    """Return the version of Outrider."""
    return json_response({"version": __version__})


@router.get("/load")
async def load(request: Request) -> Response:
    """Return how busy the server is."""
    context = context_of(request)
    state = context.client.state
    return json_response(
        {
            "server_load": context.client.open,
            "running": state.running,
            "waiting": state.waiting,
            "queued_tokens": state.queued_tokens,
            "cache_used_tokens": state.cache_used,
            "cache_size_tokens": state.cache_size,
            "draft_budget_tokens": state.draft_budget,
            "drafting_off": state.drafting_off or None,
        }
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return metrics in the format of Prometheus."""
    text = context_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
