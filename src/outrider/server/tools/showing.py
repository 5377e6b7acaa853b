"""How functions are shown to the model: by its chat template, else by a text of ours."""

import json
from collections.abc import Sequence
from typing import Any

from outrider.server.schema.chat import Tool

DEFAULT_TEXT = """\
You can call functions. Each line describes one:
{tools}
To call a function, write exactly this, one block for each call, and nothing after it:
<tool_call>
{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>
If no function is needed, answer as usual."""
"""The system text for models whose chat template does not show `tools`."""


def described(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Return tools as templates read them."""
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def _function(tool: Tool) -> dict[str, Any]:
    """Return a function; a custom tool is shown as one of a text."""
    if tool.function is not None:
        return tool.function.model_dump(exclude_none=True)
    assert tool.custom is not None
    own = {"name": tool.custom.name, "description": tool.custom.description or ""}
    text = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    return own | {"parameters": text}


def with_default_text(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return messages whose system message lists the tools; it is added if there is none."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = DEFAULT_TEXT.format(tools=lines)
    first, *rest = messages
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    content = first["content"]
    if isinstance(content, list):
        return [{**first, "content": [*content, {"type": "text", "text": f"\n\n{text}"}]}, *rest]
    return [{**first, "content": f"{content}\n\n{text}" if content else text}, *rest]
