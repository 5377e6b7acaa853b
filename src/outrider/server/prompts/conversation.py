"""Messages of a request as the messages that chat templates read."""

import json
from collections.abc import Sequence
from typing import Any

from outrider.server.errors import invalid
from outrider.server.prompts.images import read_image_url
from outrider.server.schema.chat import Call, ChatMessage, Part

Messages = list[dict[str, Any]]


def template_messages(messages: Sequence[ChatMessage], field: str = "messages") -> Messages:
    """Return messages of plain types; image parts hold their decoded image.

    The role `developer` becomes `system`. Arguments of calls become objects, and answers of tools
    get the name of the function, as templates expect them. `field` holds them, for errors.

    Raises:
        ApiError: a part is incomplete, or an image cannot be read.
    """
    names: dict[str, str] = {}
    found: Messages = []
    for at, message in enumerate(messages):
        entry: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
        entry["content"] = _content(message, f"{field}.{at}")
        for name in ("name", "tool_call_id", "reasoning_content", "reasoning"):
            if (value := getattr(message, name)) is not None:
                entry[name] = value
        if message.tool_calls:
            entry["tool_calls"] = [_call(call) for call in message.tool_calls]
            names |= {call.id: call.called.name for call in message.tool_calls if call.id}
        if message.role == "tool" and "name" not in entry:
            entry |= {"name": names[message.tool_call_id]} if message.tool_call_id in names else {}
        found.append(entry)
    return found


def with_text(message: dict[str, Any], text: str) -> dict[str, Any]:
    """Return a message with another text; its images stay, before the text."""
    content = message["content"]
    if not isinstance(content, list):
        return {**message, "content": text}
    images = [part for part in content if part["type"] == "image"]
    return {**message, "content": [*images, {"type": "text", "text": text}]}


def with_text_arguments(messages: Messages) -> Messages:
    """Return messages whose calls have their arguments as JSON text, as some templates read it."""
    return [
        {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def has_images(messages: Messages) -> bool:
    """Whether any message has an image."""
    return any(
        part["type"] == "image"
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
    )


def plain_text(parts: str | Sequence[Part]) -> str:
    """Return the text of a content that holds only texts."""
    if isinstance(parts, str):
        return parts
    return "".join(part.text or "" for part in parts)


def _content(message: ChatMessage, param: str) -> str | list[dict[str, Any]]:
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise invalid(f"{param}.content is missing", f"{param}.content", "missing_field")
        return message.refusal or ""
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{param}.content.{at}") for at, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Part, param: str) -> dict[str, Any]:
    if part.type == "image_url":
        if part.image_url is None:
            raise invalid(f"{param} has no image_url", param, "missing_field")
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        return {"type": "image", "image": read_image_url(url, f"{param}.image_url")}
    text = part.text if part.type == "text" else part.refusal
    if text is None:
        raise invalid(f"{param} has no {part.type}", param, "missing_field")
    return {"type": "text", "text": text}


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _call(call: Call) -> dict[str, Any]:
    arguments = call.called.arguments
    if isinstance(arguments, str):
        try:
            decoded = json.loads(arguments or "{}")
            arguments = decoded if isinstance(decoded, dict) else arguments
        except (ValueError, RecursionError):
            pass  # a broken call of an earlier answer is shown as it was
    function = {"name": call.called.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
