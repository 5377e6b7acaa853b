"""Finds out what a chat template reads, by rendering short conversations with it."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from outrider.core.values import JsonValue

_PROBE = "outrider_probe"
_USER: dict[str, JsonValue] = {"role": "user", "content": "-"}


@runtime_checkable
class Render(Protocol):
    """Renders messages with a template; it may raise any exception."""

    def __call__(
        self,
        messages: list[dict[str, JsonValue]],
        /,
        *,
        tools: list[JsonValue] | None = None,
        documents: list[JsonValue] | None = None,
    ) -> str:
        """Return the text of the conversation."""
        ...


def shows_tools(render: Render) -> bool:
    """Whether a template shows the functions that may be called."""
    described = {"name": _PROBE, "description": "-", "parameters": {"type": "object"}}
    tools: list[JsonValue] = [{"type": "function", "function": described}]
    return _shown(lambda: render([_USER], tools=tools))


def shows_documents(render: Render) -> bool:
    """Whether a template shows documents: objects with `title` and `text`."""
    return _shown(lambda: render([_USER], documents=[{"title": "-", "text": _PROBE}]))


def reads_objects(render: Render) -> bool:
    """Whether a template reads the arguments of calls as objects, and not only as text."""

    def shown(arguments: JsonValue) -> bool:
        function = {"name": "f", "arguments": arguments}
        call = {"id": "123456789", "type": "function", "function": function}
        return _shown(
            lambda: render([_USER, {"role": "assistant", "content": "", "tool_calls": [call]}])
        )

    return shown({"a": _PROBE}) or not shown(f'{{"a": "{_PROBE}"}}')


def _shown(render: Callable[[], str]) -> bool:
    try:
        return _PROBE in render()
    except Exception:  # templates may raise any exception
        return False
