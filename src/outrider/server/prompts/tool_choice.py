"""What a request asks of calls: which tools may be called, and the grammar that sees to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.constraints.tools import (
    Setting,
    ToolSpec,
    any_arguments,
    required_calls,
    triggered_calls,
)
from outrider.core.errors import OptionError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint
from outrider.server.errors import ApiError, from_outrider, invalid, unsupported
from outrider.server.schema.chat import CustomTool, Tool
from outrider.server.tools.choice import form_for
from outrider.server.tools.reasoning import begins_inside, ends_reasoning, gate_after, tags_of

_MODES = ("none", "auto", "required")

_Table = dict[tuple[str | None, str], Tool]
"""Tools by type and name, and by name alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """What a request asks of calls.

    Attributes:
        tools: those that are looked for in the answer.
        allowed: those of them that may be called; None: all.
        required: the answer is calls.
        parallel: several calls may be written.
        custom: the tool whose input is the answer.
    """

    tools: tuple[Tool, ...] = ()
    allowed: tuple[Tool, ...] | None = None
    required: bool = False
    parallel: bool = True
    custom: CustomTool | None = None

    @property
    def constrained(self) -> bool:
        """Whether a grammar says what calls look like."""
        functions = (tool.function for tool in self.tools if tool.function is not None)
        narrow = self.required or self.allowed is not None or any(f.strict for f in functions)
        return bool(self.tools) and narrow


def calling_of(
    tools: Sequence[Tool] | None,
    choice: str | Mapping[str, Any] | None,
    parallel: bool | None,
) -> Calling:
    """Return what a request asks of calls.

    Args:
        tools: its tools.
        choice: its `tool_choice`: `none`, `auto`, `required`, a tool, or `allowed_tools`.
        parallel: its `parallel_tool_calls`.

    Raises:
        ApiError: the choice is unknown or incomplete, or names a tool that is not given.
    """
    tools = tuple(tools or ())
    several = parallel is not False
    if choice is None or isinstance(choice, str):
        return _by_mode(tools, choice or "auto", several, None)
    kind = choice.get("type")
    if kind in ("function", "custom"):
        found = _named(_table(tools), choice)
        if found.custom is not None:
            return Calling(tools=(found,), required=True, custom=found.custom)
        return Calling(tools=(found,), required=True, parallel=False)
    if kind != "allowed_tools":
        raise _unknown(kind)
    inner = choice.get("allowed_tools", choice)
    listed = inner.get("tools") if isinstance(inner, Mapping) else None
    if not isinstance(listed, list) or not listed:
        raise invalid("tool_choice has no list of allowed tools", "tool_choice", "missing_field")
    table = _table(tools)
    named = {id(_named(table, one)) for one in listed}
    allowed = tuple(tool for tool in tools if id(tool) in named)
    return _by_mode(tools, inner.get("mode", "auto"), several, allowed)


def calls_constraint(
    calling: Calling,
    tokenizer: Tokenizer,
    parser: str | None,
    prompt: tuple[int, ...],
    ends: Sequence[int],
) -> Constraint | None:
    """Return the grammar of an answer with calls; None if they need none.

    Args:
        calling: what the request asks.
        tokenizer: the tokenizer of the target.
        parser: the name of the parser of calls, if the server was started with one.
        prompt: ids of the prompt, which may open the reasoning.
        ends: end tokens.

    Raises:
        ApiError: the calls cannot be enforced in the form of the model.
    """
    if not calling.constrained:
        return None
    try:
        if calling.custom is not None:
            return _custom(calling.custom, tokenizer, prompt)
        form = form_for(tokenizer, parser)
        setting = Setting(
            form=form,
            special=tokenizer.special_texts,
            ends=frozenset(tokenizer.decode_all((token,)) for token in ends),
            parallel=calling.parallel,
            thought=None if form.thought is not None else _thought(tokenizer, prompt),
            inside=_inside(tokenizer, prompt),
        )
        callable = calling.tools if calling.allowed is None else calling.allowed
        specs = [_spec(tool, calling.required) for tool in callable]
        return (required_calls if calling.required else triggered_calls)(specs, setting)
    except OptionError as error:
        raise from_outrider(error, "tools") from None


def _by_mode(
    tools: tuple[Tool, ...], mode: object, parallel: bool, allowed: tuple[Tool, ...] | None
) -> Calling:
    if mode not in _MODES:
        raise _unknown(mode)
    if mode == "none" or not tools:
        if mode == "required":
            raise invalid("tool_choice asks for a call, and there are no tools", "tool_choice")
        return Calling()
    chosen = tools if allowed is None else allowed
    customs = [tool for tool in chosen if tool.custom is not None]
    if customs and mode == "required" and len(chosen) == 1:
        return Calling(tools=(customs[0],), required=True, custom=customs[0].custom)
    if customs:
        reason = "a custom tool is called only where no other tool can be: name it in tool_choice"
        raise unsupported("tools", reason)
    required = mode == "required"
    return Calling(tools=tools, allowed=allowed, required=required, parallel=parallel)


def _spec(tool: Tool, required: bool) -> ToolSpec:
    """Return a tool with the schema that its arguments follow: in an answer that needs no call,
    only those of strict tools."""
    function = tool.function
    assert function is not None
    strict = bool(function.strict)
    spec = ToolSpec(name=function.name, parameters=function.parameters or {}, strict=strict)
    return spec if required or strict else any_arguments(spec)


def _custom(tool: CustomTool, tokenizer: Tokenizer, prompt: tuple[int, ...]) -> Constraint | None:
    form = tool.format
    if form is None or form.type == "text":
        return None
    grammar = form.grammar
    assert grammar is not None
    kind = "lark" if grammar.syntax == "lark" else "regex"
    found = Constraint(kind=kind, source=grammar.definition)
    return found.within(gate_after(tokenizer, prompt))


def _thought(tokenizer: Tokenizer, prompt: tuple[int, ...]) -> tuple[str, str] | None:
    """Return the tags of reasoning that may come first; None if the prompt has ended it."""
    tags = tags_of(tokenizer)
    return None if tags is None or ends_reasoning(tokenizer, prompt, tags) else tags


def _inside(tokenizer: Tokenizer, prompt: tuple[int, ...]) -> bool:
    tags = tags_of(tokenizer)
    return tags is not None and begins_inside(tokenizer, prompt, tags)


def _table(tools: Sequence[Tool]) -> _Table:
    """Return the tools by type and name, and by their name alone. Functions and custom tools may
    have the same names."""
    found: _Table = {}
    for tool in tools:
        found.setdefault((tool.type, tool.name), tool)
        found.setdefault((None, tool.name), tool)
    return found


def _named(table: _Table, choice: object) -> Tool:
    """Return the tool that a choice names, in the shapes of chats and of responses.

    Raises:
        ApiError: it names none, or one that is not given.
    """
    given: Mapping[str, Any] = choice if isinstance(choice, Mapping) else {}
    kind = given.get("type")
    inner = given.get(kind, given) if isinstance(kind, str) else given
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str):
        raise invalid("tool_choice names no tool", "tool_choice", "missing_field")
    found = table.get((kind if isinstance(kind, str) else None, name))
    if found is None:
        raise invalid(f"tool_choice names {name!r:.80}, which is none of tools", "tool_choice")
    return found


def _unknown(given: object) -> ApiError:
    known = ", ".join(map(repr, _MODES))
    return invalid(
        f"tool_choice is {given!r:.40}. Give {known}, a tool, or allowed_tools", "tool_choice"
    )
