"""The description of requests in `/openapi.json`."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from outrider.core.version import __version__
from outrider.server.errors import MESSAGES
from outrider.server.schema.base import Body

_REF = "#/components/schemas/{model}"


def described_body(model: type[Body]) -> dict[str, Any]:
    """Return the part of an operation that describes its body."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
    }


_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
"""One event of a stream."""


def streamed_body(model: type[Body]) -> dict[str, Any]:
    """Return the part of an operation that describes its body, and that it may answer as a
    stream."""
    content = {"text/event-stream": {"schema": _EVENT}}
    return described_body(model) | {"responses": {"200": {"content": content}}}


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}

_MESSAGES_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


def openapi_of(
    app: FastAPI, models: tuple[type[Body], ...], names: tuple[str, ...]
) -> dict[str, Any]:
    """Return the description of a server.

    Args:
        app: the application.
        models: the bodies of its requests.
        names: the names under which the model is served.
    """
    if app.openapi_schema is None:
        found = get_openapi(title="Outrider", version=__version__, routes=app.routes)
        schemas: dict[str, Any] = {"Error": _ERROR, "MessagesError": _MESSAGES_ERROR}
        for model in models:
            schema = model.model_json_schema(ref_template=_REF)
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
            for name in model.elsewhere:
                del schema["properties"][name]
            if schema["properties"]["model"].get("type") == "string":
                schema["properties"]["model"]["enum"] = list(names)
        found["components"] = {"schemas": schemas}
        for path, operations in found["paths"].items():
            error = "MessagesError" if path.startswith(MESSAGES) else "Error"
            for operation in operations.values():
                _describe_errors(operation, error)
        app.openapi_schema = found
    return app.openapi_schema


def _describe_errors(operation: dict[str, Any], model: str) -> None:
    """Replace the errors that FastAPI describes by those that the server has."""
    operation["responses"].pop("422", None)
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}
    for status in ("4XX", "5XX"):
        operation["responses"][status] = {"description": "An error", "content": content}
