"""Calls in the syntax of Python: `[f(a=1, b="x"), g()]`, as Llama 3.2, Llama 4, Olmo 3 and LFM2
models write them."""

import ast
import re
import warnings
from collections.abc import Iterator
from textwrap import dedent

from outrider.constraints.tools import CallForm
from outrider.core.values import JsonValue
from outrider.server.tools.calls import FunctionCall
from outrider.server.tools.incremental import Incremental, Steps
from outrider.server.tools.reading import is_name, json_text

_TAGS = {
    "<|python_start|>": "<|python_end|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<function_calls>": "</function_calls>",
}
"""Marks around calls; between them text may be a list, or one call in each line."""

_BEGIN = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")
"""Matches the begin of an answer that is a list of calls."""
_MAY_BEGIN = re.compile(r"(\[\s*([A-Za-z_][\w.]*\s*)?)?")

_NAMES: dict[str, JsonValue] = {"true": True, "false": False, "null": None}
"""Values of JSON that models write among those of Python."""


class Pythonic(Incremental):
    """Finds lists of calls: between marks anywhere, and without marks as a whole answer.

    Arguments are literals with a name; anything else is no call. They are returned as JSON.
    """

    marks = tuple(mark for pair in _TAGS.items() for mark in pair)
    control = marks[:4]

    @classmethod
    def form(cls, template: str) -> CallForm:
        """Return how calls are written, where `template` is the chat template."""
        tag = next((tag for tag in _TAGS if tag in template), None)
        if tag is None:
            return CallForm(
                before="[",
                begin="",
                middle="(",
                end=")",
                between=", ",
                after="]",
                arguments="python",
                plain=r"(?s:[ \n\r\t]*([^\s\[].*|\[[ \n\r\t]*[^\sA-Za-z_].*)?)",
            )
        lines = tag == "<function_calls>"
        return CallForm(
            before=tag + ("\n" if lines else "["),
            begin="",
            middle="(",
            end=")",
            between="\n" if lines else ", ",
            after=("\n" if lines else "]") + _TAGS[tag],
            arguments="python",
            opens=tag,
        )

    def _read(self) -> Steps[None]:
        if (yield from self._begins_with_calls()):
            yield from self._all()
            self._return(self._text)
        while (mark := (yield from self._plain(*_TAGS))) is not None:
            begin, end = self._at, _TAGS[mark]
            found = yield from self._until(end)
            self._return(self._text[begin : self._at - len(found or "")])

    def _begins_with_calls(self) -> Steps[bool]:
        """Whether the text begins with a list of calls."""
        yield from self._space()
        while True:
            left = self._text[self._at :]
            if _BEGIN.match(left):
                return True
            if self._ended or not _MAY_BEGIN.fullmatch(left):
                self._at = 0
                return False
            yield

    def _return(self, written: str) -> None:
        """Return what was read: the calls that `written` holds, or text."""
        calls = calls_in(written)
        for call in calls:
            self._call(call)
        if not calls:
            self._say(self._used())


def calls_in(text: str) -> list[FunctionCall]:
    """Return all calls; none if any part of the text is something else."""
    try:
        with warnings.catch_warnings():  # of strange escapes in strings
            warnings.simplefilter("ignore")
            tree = ast.parse(dedent(text).strip())
        return [_call(one) for statement in tree.body for one in _expressions(statement)]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []


def _expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise ValueError
    value = statement.value
    yield from value.elts if isinstance(value, ast.List | ast.Tuple) else [value]


def _call(found: ast.expr) -> FunctionCall:
    if not isinstance(found, ast.Call) or found.args:
        raise ValueError
    name = _dotted(found.func)
    arguments: dict[str, JsonValue] = {}
    for keyword in found.keywords:
        if keyword.arg is None:
            raise ValueError
        arguments[keyword.arg] = _literal(keyword.value)
    if not is_name(name):
        raise ValueError
    return FunctionCall(name, json_text(arguments))


def _dotted(found: ast.expr) -> str:
    if isinstance(found, ast.Attribute):
        return f"{_dotted(found.value)}.{found.attr}"
    if isinstance(found, ast.Name):
        return found.id
    raise ValueError


def _literal(found: ast.expr) -> JsonValue:
    """Return the value of a literal. Raises `ValueError` for anything that JSON has not."""
    match found:
        case ast.Constant(value=str() | int() | float() | None):
            return found.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_literal(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _literal(v) for key, v in zip(keys, values, strict=True)}
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
    raise ValueError


def _key(found: ast.expr | None) -> str:
    if isinstance(found, ast.Constant) and isinstance(found.value, str):
        return found.value
    raise ValueError
