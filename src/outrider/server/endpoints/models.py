"""`/v1/models`."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outrider.server.context import Context, context_of
from outrider.server.endpoints.common import check_model, json_response

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """List the names under which the model is served."""
    context = context_of(request)
    data = [_model(context, name) for name in context.settings.model_names]
    return json_response({"object": "list", "data": data})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """Describe one model."""
    context = context_of(request)
    check_model(context, name)
    return json_response(_model(context, name))


def _model(context: Context, name: str) -> dict[str, Any]:
    info = context.info
    more: dict[str, Any] = {} if info.guidance is None else {"guidance": info.guidance}
    more |= {"kv_policy": info.kv_policy} if info.kv_policy else {}
    return {
        "id": name,
        "object": "model",
        "created": context.started,
        "owned_by": "outrider",
        "root": context.settings.model_name,
        "parent": None,
        "max_model_len": context.window,
        "reads_images": bool(info.image_token_ids),
        "exactness": str(context.generator.strategy.exactness),
        **more,
    }
