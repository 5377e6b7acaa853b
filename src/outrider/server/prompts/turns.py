"""Messages of Anthropic's interface as messages of a chat."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from outrider.server.errors import invalid
from outrider.server.prompts.rendering import Conversation
from outrider.server.schema.base import parse_part
from outrider.server.schema.chat import ChatMessage, Tool
from outrider.server.schema.messages import Block, ClientTool, CountBody, Shown, Source, Turn

T = TypeVar("T")
Message = dict[str, Any]

_BETWEEN = "\n\n"
"""Between messages of one role that follow each other: they are one turn."""


def conversation_of(body: CountBody, values: dict[str, Any]) -> Conversation:
    """Return what a request asks to render. An answer at the end is continued.

    Args:
        body: the request.
        values: the hints that the chat template knows (`hints_of`).

    Raises:
        ApiError: a block is incomplete, or stands where it has no meaning.
    """
    messages = chat_messages(body)
    continued = messages[-1].role == "assistant"
    if continued and messages[-1].tool_calls:
        raise invalid("the last message has a tool_use; add its tool_result", "messages")
    return Conversation(
        messages=messages,
        tools=chat_tools(body.tools or ()),
        values=values,
        open=not continued,
        continued=continued,
    )


def hints_of(body: CountBody) -> dict[str, Any]:
    """Return the variables of chat templates that a request sets."""
    found: dict[str, Any] = {}
    if body.thinking is not None:
        found["enable_thinking"] = body.thinking.type != "disabled"
    if body.output_config is not None and body.output_config.effort is not None:
        found["reasoning_effort"] = body.output_config.effort
    return found


def chat_messages(body: CountBody) -> list[ChatMessage]:
    """Return the conversation: the system text, then the messages."""
    found: list[Message] = []
    if body.system:
        found.append({"role": "system", "content": _texts(body.system, "system")})
    for at, turn in enumerate(body.messages):
        for message in _turn(turn, f"messages.{at}"):
            _add(found, message)
    return [parse_part(ChatMessage, message, "messages") for message in found]


def chat_tools(tools: Sequence[ClientTool]) -> list[Tool]:
    """Return the functions as those of a chat."""
    found: list[Tool] = []
    for tool in tools:
        function: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.input_schema is not None:
            function["parameters"] = tool.input_schema
        if tool.strict is not None:
            function["strict"] = tool.strict
        found.append(Tool.model_validate({"type": "function", "function": function}))
    return found


def _add(found: list[Message], message: Message) -> None:
    """Add a message; to the last one if both are of the user, or answers without calls."""
    last: Message = found[-1] if found else {}
    role = message["role"]
    apart = "tool_calls" in last or "reasoning_content" in message
    if role != last.get("role") or role not in ("user", "assistant") or apart:
        found.append(message)
        return
    last["content"] = [*last["content"], _text(_BETWEEN), *message["content"]]
    last |= {"tool_calls": message["tool_calls"]} if "tool_calls" in message else {}


@dataclass(slots=True)
class _Said:
    """What one message holds, as it is collected."""

    parts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    thought: str = ""


def _turn(turn: Turn, param: str) -> list[Message]:
    """Return a message as messages of a chat: what a call returned is one of its own."""
    if turn.role == "system":
        return [{"role": "system", "content": _texts(turn.content, f"{param}.content")}]
    blocks = [Block(type="text", text=turn.content)] if isinstance(turn.content, str) else None
    said, found = _Said(), list[Message]()
    for at, block in enumerate(blocks or turn.content):
        assert isinstance(block, Block)
        place = f"{param}.content.{at}"
        if block.type == "tool_result":
            if turn.role != "user":
                raise invalid(f"{place} is a tool_result. Only the user can have one", place)
            found += _closed(turn.role, said)
            said = _Said()
            found.append(_returned(block, place))
        elif block.type in ("text", "image"):
            said.parts.append(_part(block, place))
        elif turn.role != "assistant":
            raise invalid(f"{place} is a {block.type}. Only an assistant can have one", place)
        elif block.type == "tool_use":
            said.calls.append(_call(block, place))
        else:  # what was encrypted cannot be read
            said.thought += block.thinking or ""
    found += _closed(turn.role, said)
    return found or [{"role": turn.role, "content": [_text("")]}]


def _closed(role: str, said: _Said) -> list[Message]:
    """Return the message that was collected, if there is any."""
    if not (said.parts or said.calls or said.thought):
        return []
    message: Message = {"role": role, "content": said.parts}
    if said.calls:
        message["tool_calls"] = said.calls
    if said.thought:
        message["reasoning_content"] = said.thought
    return [message]


def _returned(block: Block, param: str) -> Message:
    content = block.content or ""
    parts = [_text(content)] if isinstance(content, str) else _parts(content, param)
    if block.is_error:
        parts = [_text("Error: "), *parts]
    call = _given(block.tool_use_id, "tool_use_id", param)
    return {"role": "tool", "tool_call_id": call, "content": parts}


def _parts(blocks: Sequence[Shown], param: str) -> list[dict[str, Any]]:
    """Return texts and images."""
    return [_part(block, f"{param}.content.{at}") for at, block in enumerate(blocks)]


def _part(block: Block | Shown, param: str) -> dict[str, Any]:
    if block.type == "image":
        return _image(block.source, param)
    return _text(_given(block.text, "text", param))


def _call(block: Block, param: str) -> dict[str, Any]:
    name, arguments = _given(block.name, "name", param), _given(block.input, "input", param)
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": _given(block.id, "id", param), "type": "function", "function": function}


def _image(source: Source | None, param: str) -> dict[str, Any]:
    source = _given(source, "source", param)
    if source.type == "url":
        url = _given(source.url, "url", f"{param}.source")
    else:
        kind = _given(source.media_type, "media_type", f"{param}.source")
        url = f"data:{kind};base64,{_given(source.data, 'data', f'{param}.source')}"
    return {"type": "image_url", "image_url": url}


def _texts(content: str | Sequence[Block], param: str) -> str:
    """Return a content that can only be text."""
    if isinstance(content, str):
        return content
    for at, block in enumerate(content):
        if block.type != "text":
            raise invalid(f"{param}.{at} is {block.type!r}. Give text", f"{param}.{at}")
    return "".join(_given(b.text, "text", f"{param}.{at}") for at, b in enumerate(content))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _given(value: T | None, name: str, param: str) -> T:
    """Return a field that a block must have. Raises `ApiError` if it is missing."""
    if value is None:
        raise invalid(f"{param}.{name} is missing", f"{param}.{name}", "missing_field")
    return value
