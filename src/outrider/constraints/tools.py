"""Grammars of calls: the form in which a model writes calls, with the arguments of each tool."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from outrider.constraints.arguments import Writing, json_of, python_of, tags_of
from outrider.constraints.json_schema import check_references
from outrider.constraints.lark import literal, pattern, quoted
from outrider.constraints.limits import GrammarLimits
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.sampling.constraint import Constraint, Gate

_MOST = 256
"""Tools of one request."""

_SPACE = r"/[ \n]{0,3}/"
"""White space between reasoning and a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool that may be called.

    Attributes:
        name: its name.
        parameters: the JSON schema of its arguments.
        strict: the arguments follow the schema, or it is refused. Otherwise the parts of it that
            cannot be enforced are ignored.
    """

    name: str
    parameters: Mapping[str, JsonValue]
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """How a model writes calls: `before`, calls with `between` between them, `after`.

    A call is `begin`, the name, `middle`, the arguments and `end`. Marks in these texts may be
    special tokens.

    Attributes:
        before: stands before the first call.
        begin: stands before the name.
        middle: stands between the name and the arguments.
        end: stands behind the arguments.
        between: stands between two calls.
        after: stands behind the last call.
        arguments: `json` for an object, `python` for `a=1, b="x"`, `tags` for one tag each.
        opens: the text with which calls begin in a text, the beginning of `before` and `begin`;
            None: calls are the whole answer.
        closes: the text behind which the text goes on after a call; None: the calls are the end of
            the text.
        plain: of a form without `opens`, a regular expression of the answers without a call.
        also: other texts that may stand for `middle` in an answer that needs no call.
        thought: texts around reasoning before the calls, where it is part of the form.
    """

    begin: str
    middle: str
    end: str
    before: str = ""
    between: str = ""
    after: str = ""
    arguments: Literal["json", "python", "tags"] = "json"
    opens: str | None = None
    closes: str | None = None
    plain: str = ""
    also: tuple[str, ...] = ()
    thought: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What calls depend on besides the tools.

    Attributes:
        form: how calls are written.
        special: the texts of special tokens, by their ids.
        ends: the texts of tokens that end an answer: nothing can be written behind them.
        parallel: several calls may be written.
        thought: tags around reasoning, which may come first; None: there is none.
        inside: the prompt ends inside the reasoning.
    """

    form: CallForm
    special: Mapping[int, str]
    ends: frozenset[str] = frozenset()
    parallel: bool = True
    thought: tuple[str, str] | None = None
    inside: bool = False


def required_calls(tools: Sequence[ToolSpec], setting: Setting) -> Constraint:
    """Return the constraint of answers that are calls of these tools, after reasoning.

    Raises:
        OptionError: there are too many tools, or one cannot be written in this form.
    """
    grammar = _Grammar(tools, setting, (setting.form.middle,))
    grammar.rule("start", f"{grammar.lead()} {grammar.calls()}")
    return grammar.constraint(behind_reasoning(setting, required=True))


def triggered_calls(tools: Sequence[ToolSpec], setting: Setting) -> Constraint:
    """Return the constraint of answers in which each call is one of these tools: the text around
    calls is free.

    Raises:
        OptionError: as `required_calls`.
    """
    form = setting.form
    grammar = _Grammar(tools, setting, (form.middle, *form.also))
    if form.opens is None:
        grammar.rule("start", f"{grammar.lead()} ({grammar.calls()} | PLAIN)")
        grammar.rule("PLAIN", pattern(form.plain))
        return grammar.constraint(behind_reasoning(setting, required=False))
    opened = (form.before + form.begin).removeprefix(form.opens)
    if form.closes is None or not setting.parallel:
        grammar.rule("start", grammar.opened_calls(opened))
        return grammar.constraint(Gate(open=form.opens))
    end = form.end.removesuffix(form.closes)
    grammar.rule("start", grammar.call(opened, end))
    return grammar.constraint(Gate(open=form.opens, close=form.closes, repeat=True))


def behind_reasoning(setting: Setting, *, required: bool) -> Gate | None:
    """Return the gate of an answer whose prompt ends inside the reasoning; None for others."""
    if setting.thought is None or not setting.inside:
        return None
    return Gate(open=setting.thought[1], required=required)


class _Grammar:
    """A Lark grammar of calls, rule by rule."""

    def __init__(
        self, tools: Sequence[ToolSpec], setting: Setting, middles: tuple[str, ...]
    ) -> None:
        """Begin a grammar; `middles` may stand between a name and its arguments."""
        if not tools:
            raise OptionError("there is no tool to call", hint="Give tools")
        if len(tools) > _MOST:
            raise OptionError(f"there are {len(tools)} tools", hint=f"Give at most {_MOST}")
        names = [tool.name for tool in tools]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise OptionError(f"two tools have the name {twice!r}", hint="Give each its own")
        self._tools, self._setting = tools, setting
        self._rules: list[str] = []
        self._writing = Writing()
        self._middles = middles
        marks = filter(None, {*setting.special.values(), *setting.ends})
        self._marks = sorted(marks, key=len, reverse=True)
        for tool in tools:
            _check(tool)

    def rule(self, name: str, body: str) -> None:
        """Add a rule."""
        self._rules.append(f"{name}: {body}")

    def lead(self) -> str:
        """Return what may stand before the calls: reasoning, and white space."""
        setting = self._setting
        if setting.thought is not None and setting.inside:
            return _SPACE
        tags = setting.form.thought or setting.thought
        if tags is None:
            return ""
        opening, closing = self._terms(tags[0]), list(self._split(tags[1]))
        if any(mark in setting.ends for mark in closing):
            return ""
        [mark, *behind] = closing
        behind = " ".join(literal(text, setting.special) for text in behind)
        if mark in setting.special.values():
            self.rule("THOUGHT", "/(?s:.*)/")
            inner = f"THOUGHT {literal(mark, setting.special)}"
        else:
            self.rule(f"thought[suffix={quoted(mark)}]", "/(?s:.*)/")
            inner = "thought"
        space = "" if setting.form.thought else _SPACE
        return f"({opening} {inner} {behind} {space})?"

    def calls(self) -> str:
        """Return the term of calls."""
        form = self._setting.form
        first = self.call(form.begin, form.end)
        return f"{self._terms(form.before)} {first} {self._further(first)}"

    def opened_calls(self, begin: str) -> str:
        """Return the term of calls whose opening text is written; `begin` is left of the text
        before the first name."""
        form = self._setting.form
        first, other = self.call(begin, form.end, "first"), self.call(form.begin, form.end)
        return f"{first} {self._further(other)}"

    def _further(self, call: str) -> str:
        """Return the term of what follows the first call: other calls, and the end of all."""
        form, setting = self._setting.form, self._setting
        ended = any(mark in setting.ends for mark in self._split(form.end))
        more = f"({self._terms(form.between)} {call})*" if setting.parallel and not ended else ""
        return f"{more} {self._terms(form.after)}"

    def call(self, begin: str, end: str, rule: str = "call") -> str:
        """Return the name of a rule for one call."""
        middles = [self._terms(text) or '""' for text in self._middles]
        middle = middles[0] if len(middles) == 1 else f"({' | '.join(middles)})"
        bodies = [
            f"{quoted(tool.name)} {middle} {self._arguments(at, tool)}"
            for at, tool in enumerate(self._tools)
        ]
        self.rule(rule, f"{self._terms(begin)} ({' | '.join(bodies)}) {self._terms(end)}")
        return rule

    def constraint(self, gate: Gate | None) -> Constraint:
        """Return the grammar."""
        source = "\n".join((*self._rules, *self._writing.rules)) + "\n"
        found = Constraint(kind="lark", source=source, gate=gate)
        GrammarLimits().check(found)
        return found

    def _arguments(self, at: int, tool: ToolSpec) -> str:
        """Return the name of the rule for the arguments of a tool, which is added once."""
        name = f"arguments_{at}"
        if name not in self._writing.names:
            write = {"json": json_of, "python": python_of, "tags": tags_of}
            made = write[self._setting.form.arguments]
            made(self._writing, name, tool.name, tool.parameters, tool.strict)
        return name

    def _split(self, text: str) -> Iterator[str]:
        """Yield the parts of a text: marks that are special tokens or end tokens, and the text
        between them."""
        fitting = [re.escape(mark) for mark in self._marks if mark in text]
        yield from filter(None, re.split(f"({'|'.join(fitting)})", text) if fitting else [text])

    def _terms(self, text: str) -> str:
        """Return the terms of a text. What follows an end token cannot be written."""
        found: list[str] = []
        for part in self._split(text):
            if part in self._setting.ends:
                break
            found.append(literal(part, self._setting.special))
        return " ".join(found)


def _check(tool: ToolSpec) -> None:
    """Raise `OptionError` if the schema of a tool exceeds a limit, or cannot be read."""
    try:
        GrammarLimits().check(Constraint.json_schema(tool.parameters))
        check_references(dict(tool.parameters))
    except OptionError as error:
        raise OptionError(f"the tool {tool.name!r}: {error.problem}", hint=error.hint) from None


def any_arguments(tool: ToolSpec) -> ToolSpec:
    """Return a tool whose arguments are any object."""
    return replace(tool, parameters={"type": "object"})
