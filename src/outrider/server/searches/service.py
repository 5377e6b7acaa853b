"""Runs searches of clients on the engine."""

import asyncio
from time import perf_counter

from starlette.types import Receive

from outrider.core.errors import OutriderError
from outrider.engine.serving.searches import SearchingEngine, SearchJob, SearchNotRunError
from outrider.search import SearchResult
from outrider.search.account import SearchStoppedError
from outrider.search.scorers.scorer import ScorerError
from outrider.server.client import ServingEngine
from outrider.server.errors import ApiError, from_outrider, retry_later, unsupported
from outrider.server.http.leaving import ClientLeft, watched
from outrider.server.searches.settings import SearchSettings

_WAITING = 8
"""Searches that may be open at once; then 429."""
_OFF = "the server was started without --allow-search"


def engine_for(engine: ServingEngine) -> SearchingEngine:
    """Return the engine if it runs searches. Raises `ApiError` if it does not."""
    if not isinstance(engine, SearchingEngine):
        raise unsupported("search", "several replicas serve this model")
    return engine


def allowed(settings: SearchSettings | None) -> SearchSettings:
    """Return the settings of searches. Raises `ApiError` if they are not allowed."""
    if settings is None:
        raise unsupported("search", _OFF)
    return settings


async def searched(engine: SearchingEngine, job: SearchJob, receive: Receive) -> SearchResult:
    """Run a search; it is cancelled when the client closes the connection.

    Raises:
        ApiError: too many searches wait, or it failed.
        ClientLeft: the client has left.
    """
    if engine.searches >= _WAITING:
        message = f"{_WAITING} searches are open; try again later"
        raise retry_later(429, "queue_full", message, 10.0)

    def leave() -> None:
        job.cancelled = True

    engine.search(job)
    try:
        async with watched(receive, leave):
            found = await asyncio.wrap_future(job.result)
    except SearchNotRunError as error:
        raise retry_later(429, "queue_full", error.problem, 10.0) from None
    except (ScorerError, SearchStoppedError) as error:
        raise ApiError(422, "search_failed", str(error), "search") from None
    except OutriderError as error:
        raise from_outrider(error, "search") from None
    if job.cancelled:
        raise ClientLeft
    return found


def begin_by(queue_timeout: float) -> float:
    """Return until when a search may wait."""
    return perf_counter() + queue_timeout
