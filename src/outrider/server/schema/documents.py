"""The description of requests in `/openapi.json`."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from outrider.core.version import __version__
from outrider.server.schema.base import Body

_REF = "#/components/schemas/{model}"


def described_body(model: type[Body]) -> dict[str, Any]:
    """Return the part of an operation that describes its body and its errors."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    error = {"content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"4XX": {"description": "The request is refused"} | error},
    }


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


def openapi_of(app: FastAPI, models: tuple[type[Body], ...]) -> dict[str, Any]:
    """Return the description of a server, with the models of all bodies."""
    if app.openapi_schema is None:
        found = get_openapi(title="Outrider", version=__version__, routes=app.routes)
        schemas: dict[str, Any] = {"Error": _ERROR}
        for model in models:
            schema = model.model_json_schema(ref_template=_REF)
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        components = found.setdefault("components", {})
        components["schemas"] = components.get("schemas", {}) | schemas
        app.openapi_schema = found
    return app.openapi_schema
