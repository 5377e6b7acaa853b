"""Items of a response request as messages of a chat."""

from collections.abc import Sequence
from typing import Any

from outrider.server.errors import invalid, unsupported
from outrider.server.schema.base import parse_part
from outrider.server.schema.chat import ChatMessage, Tool
from outrider.server.schema.responses import FunctionTool, InputItem, InputPart, ResponsesBody


def chat_messages(body: ResponsesBody) -> list[ChatMessage]:
    """Return the conversation: the instructions, then the input.

    Raises:
        ApiError: an item is incomplete, or refers to an answer that is not kept.
    """
    found: list[dict[str, Any]] = []
    if body.instructions:
        found.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        found.append({"role": "user", "content": body.input})
    else:
        for at, item in enumerate(body.input):
            _add(found, item, f"input.{at}")
    return [parse_part(ChatMessage, message, "input") for message in found]


def chat_tools(tools: Sequence[FunctionTool]) -> list[Tool]:
    """Return the tools as those of a chat. Raises `ApiError` if one is incomplete."""
    return [parse_part(Tool, _tool(tool), "tools") for tool in tools]


def _tool(tool: FunctionTool) -> dict[str, Any]:
    own = tool.model_dump(exclude={"type", "format"}, exclude_none=True)
    if tool.type == "function":
        return {"type": "function", "function": own}
    form = tool.format
    if form is not None:
        grammar = {"syntax": form.syntax, "definition": form.definition}
        own["format"] = {"type": form.type} | ({"grammar": grammar} if form.syntax else {})
    return {"type": "custom", "custom": own}


def _add(found: list[dict[str, Any]], item: InputItem, param: str) -> None:
    if item.type == "message":
        if item.role is None or item.content is None:
            raise invalid(f"{param} has no role or no content", param, "missing_field")
        found.append({"role": item.role, "content": _content(item.content, param)})
    elif item.type in ("function_call", "custom_tool_call"):
        custom = item.type == "custom_tool_call"
        written = item.input if custom else item.arguments
        if item.name is None or written is None:
            what = "input" if custom else "arguments"
            raise invalid(f"{param} has no name or no {what}", param, "missing_field")
        kind, own = ("custom", "input") if custom else ("function", "arguments")
        called = {"name": item.name, own: written}
        call = {"id": item.call_id, "type": kind, kind: called}
        last = found[-1] if found else {}
        if last.get("role") == "assistant":
            last.setdefault("tool_calls", []).append(call)
        else:
            found.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif item.type in ("function_call_output", "custom_tool_call_output"):
        if item.output is None or item.call_id is None:
            raise invalid(f"{param} has no call_id or no output", param, "missing_field")
        content = _content(item.output, param)
        found.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
    elif item.type != "reasoning":  # reasoning of earlier turns is not read again
        raise unsupported(param, f"items of type {item.type!r:.40} are not read")


def _content(content: str | Sequence[Any], param: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [_part(parse_part(InputPart, part, param), param) for part in content]


def _part(part: InputPart, param: str) -> dict[str, Any]:
    if part.type == "input_image":
        if part.image_url is None:
            raise unsupported(param, "give the image in image_url")
        return {"type": "image_url", "image_url": part.image_url}
    if part.type == "refusal":
        return {"type": "refusal", "refusal": part.refusal}
    return {"type": "text", "text": part.text}
