"""Reads the body of a request: under limits of size and time, as JSON."""

import asyncio
import json
from typing import NoReturn

from fastapi import Request
from pydantic_core import to_json

from outrider.server.context import Context
from outrider.server.errors import ApiError, invalid
from outrider.server.http.leaving import ClientLeft

_QUICK = 1 << 16
"""Bytes that are parsed in the event loop; larger bodies are parsed in a thread."""

_JSON = ("application/json", "text/json")

_DEEPER = 16
"""Answers hold parts of their requests at most this much deeper than the requests do."""


async def read_json(request: Request, context: Context) -> object:
    """Return the decoded body.

    Raises:
        ApiError: it is too large, takes too long, or is not JSON.
        ClientLeft: the client closed the connection.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _JSON and not kind.endswith("+json"):
        raise invalid(f"content-type is {kind!r:.60}. Give application/json", "content-type")
    body = await _read(request, context)
    if len(body) < _QUICK:
        return _decoded(body)
    return await context.prepare(lambda: _decoded(body))


async def _read(request: Request, context: Context) -> bytes:
    limit, seconds = context.settings.max_body, context.settings.body_timeout
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        message = f"the body did not arrive within {seconds:g} s"
        raise ApiError(408, "request_timeout", message, headers={"connection": "close"}) from None


def _too_large(limit: int) -> ApiError:
    message = f"the body has more than {limit} bytes"
    return ApiError(413, "body_too_large", message, headers={"connection": "close"})


def _decoded(body: bytes) -> object:
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}") from None
    _check_writable(data)
    return data


def _check_writable(data: object) -> None:
    """Raise `ApiError` if the data cannot be part of an answer: it is nested too deeply, or a text
    has half of a surrogate pair, which is no character."""
    if _is_writable(data):
        return
    for name, value in data.items() if isinstance(data, dict) else ():
        if not _is_writable(name) or not _is_writable(value):
            shown = name.encode("ascii", "backslashreplace").decode()[:80]
            reason = "is nested too deeply, or holds half of a surrogate pair"
            raise invalid(f"the field {shown!r} {reason}", shown)
    raise invalid("the body is nested too deeply, or holds half of a surrogate pair")


def _is_writable(data: object) -> bool:
    for _ in range(_DEEPER):
        data = [data]
    try:
        to_json(data)
    except ValueError:
        return False
    return True


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
