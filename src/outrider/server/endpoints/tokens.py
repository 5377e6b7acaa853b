"""`/tokenize` and `/detokenize`."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from outrider.core.errors import OutriderError
from outrider.server.context import Context
from outrider.server.endpoints.common import accept, ignored_header, json_response
from outrider.server.errors import from_outrider, invalid
from outrider.server.prompts.rendering import Conversation, chat_prompt
from outrider.server.schema.completions import DetokenizeBody, TokenizeBody
from outrider.server.schema.documents import described_body

router = APIRouter()


@router.post("/tokenize", openapi_extra=described_body(TokenizeBody))
async def tokenize(request: Request) -> Response:
    """Return the tokens of a text or of a conversation."""
    accepted = await accept(request, TokenizeBody)
    found = await accepted.context.prepare(lambda: _tokens(accepted.body, accepted.context))
    return json_response(found, ignored_header(accepted.ignored))


@router.post("/detokenize", openapi_extra=described_body(DetokenizeBody))
async def detokenize(request: Request) -> Response:
    """Return the text of tokens."""
    accepted = await accept(request, DetokenizeBody)
    tokenizer, tokens = accepted.context.tokenizer, accepted.body.tokens
    text = await accepted.context.prepare(lambda: tokenizer.decode_all(tokens))
    return json_response({"prompt": text, "content": text}, ignored_header(accepted.ignored))


def _tokens(body: TokenizeBody, context: Context) -> dict[str, Any]:
    ids = _ids(body, context)
    found: dict[str, Any] = {
        "tokens": list(ids),
        "count": len(ids),
        "max_model_len": context.window,
    }
    if body.with_pieces:
        found["tokens"] = [{"id": i, "piece": context.texts.text(i)} for i in ids]
    if body.return_token_strs:
        found["token_strs"] = [context.texts.text(i) for i in ids]
    return found


def _ids(body: TokenizeBody, context: Context) -> tuple[int, ...]:
    given = [name for name in ("prompt", "content", "messages") if getattr(body, name) is not None]
    if len(given) != 1:
        what = " and ".join(given) or "nothing"
        raise invalid(f"{what} is given. Give one of prompt, content, messages", "prompt")
    if body.messages is not None:
        continued = bool(body.continue_final_message)
        opens = body.add_generation_prompt
        asked = Conversation(
            messages=body.messages,
            tools=body.tools or (),
            values=body.chat_template_kwargs,
            open=not continued if opens is None else opens,
            continued=continued,
            opening_tokens=bool(body.add_special_tokens),
        )
        return chat_prompt(asked, context.tokenizer).token_ids
    text = (body.content if body.prompt is None else body.prompt) or ""
    special = body.add_special_tokens is not False
    try:
        return context.tokenizer.encode(text) if special else context.tokenizer.encode_plain(text)
    except OutriderError as error:
        raise from_outrider(error, given[0]) from None
