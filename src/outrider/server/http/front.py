"""The outermost layer: identifiers, keys, and errors that nothing else has answered."""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outrider.core.errors import OutriderError
from outrider.server.context import Asker, Context
from outrider.server.errors import ApiError, crashed, from_outrider, retry_later
from outrider.server.http.leaving import ClientLeft

_log = logging.getLogger("outrider.server")

OPEN = ("/", "/health", "/live", "/ready")
"""Paths that need no key."""

_ID = re.compile(r"[\x21-\x7e]{1,128}")

ID_HEADER = "x-request-id"


class Front:
    """Gives each request an identifier, checks its key, and answers what went wrong."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asker = Asker(request_id=_identifier(headers), address=(scope.get("client") or ("",))[0])
        scope.setdefault("state", {})["asker"] = asker
        answer = _Answer(send, asker.request_id)
        try:
            await self._run(scope, receive, answer, headers, asker)
        finally:
            seconds = time.perf_counter() - asker.received
            if (telemetry := self._context.telemetry) is not None:
                telemetry.finish(scope, asker.facts, asker.request_id, answer.status, seconds)
            route = getattr(scope.get("route"), "path", "other")
            self._context.metrics.count_http(scope["method"], route, answer.status, seconds)

    async def _run(
        self, scope: Scope, receive: Receive, answer: "_Answer", headers: Headers, asker: Asker
    ) -> None:
        try:
            if scope["path"] not in OPEN:
                self._admit(headers, asker)
            await self._app(scope, receive, answer)
        except ClientLeft:
            answer.status = answer.status or 499
        except ApiError as error:
            await answer.report(error, scope, receive)
        except OutriderError as error:
            await answer.report(from_outrider(error), scope, receive)
        except Exception:
            _log.exception("request %s failed", asker.request_id)
            await answer.report(crashed(), scope, receive)

    def _admit(self, headers: Headers, asker: Asker) -> None:
        """Find the key of a request. Raises `ApiError` if it has none, or has spent its rate."""
        keys = self._context.keys
        if not keys:
            return
        given = _given_key(headers)
        asker.key = keys.find(given) if given else None
        if asker.key is None:
            message = (
                "the key is unknown" if given else "a key is needed: Authorization: Bearer KEY"
            )
            raise ApiError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})
        if (wait := keys.wait(asker.key)) > 0:
            self._context.metrics.refused("rate_limit")
            raise retry_later(429, "rate_limit", "this key has sent too many requests", wait)


class _Answer:
    """`send` of one request: adds the identifier, and remembers how far the answer is."""

    def __init__(self, send: Callable[[Message], Awaitable[None]], request_id: str) -> None:
        self._send, self._id = send, request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        begins = message["type"] == "http.response.start"
        if begins:
            MutableHeaders(scope=message)[ID_HEADER] = self._id
        await self._send(message)
        if begins:
            self.status = message["status"]

    async def report(self, error: ApiError, scope: Scope, receive: Receive) -> None:
        """Answer with an error, unless an answer has begun."""
        if not self.status:
            await error.response(scope["path"])(scope, receive, self)


def _identifier(headers: Headers) -> str:
    """Return the identifier that the client gave, or a new one."""
    given = headers.get(ID_HEADER, "")
    return given if _ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"


def _given_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key", "") or headers.get("api-key", "")
