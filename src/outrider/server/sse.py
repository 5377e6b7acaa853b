"""Server-sent events: frames of a stream."""

from typing import Any

from pydantic_core import to_json

PING = b": ping\n\n"
"""A comment, which clients ignore; it keeps proxies from closing a silent connection."""

DONE = b"data: [DONE]\n\n"

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def frame(data: Any) -> bytes:
    """Return one event that holds JSON."""
    return b"data: " + to_json(data) + b"\n\n"


def named_frame(name: str, data: Any) -> bytes:
    """Return one event with a name."""
    return b"event: " + name.encode() + b"\n" + frame(data)
