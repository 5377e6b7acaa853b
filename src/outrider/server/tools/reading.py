"""Reads calls written as JSON."""

import json
from typing import Any

from outrider.server.tools.calls import FunctionCall


def read_call(text: str) -> FunctionCall | None:
    """Return the call that `text` holds, or None if it is no call.

    The text of the arguments stays as the model wrote it, apart from white space.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return as_call(data)


def as_call(data: Any) -> FunctionCall | None:
    """Return the call that a decoded object describes, or None."""
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or not data["name"]:
        return None
    arguments = data.get("arguments", data.get("parameters", {}))
    if isinstance(arguments, str):
        return FunctionCall(data["name"], arguments)
    return FunctionCall(data["name"], json.dumps(arguments, ensure_ascii=False))
