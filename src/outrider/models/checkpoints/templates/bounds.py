"""Bounds on the operators, filters, tests, methods and functions of chat templates."""

import re
from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Protocol, runtime_checkable

import jinja2
import jinja2.runtime
import jinja2.utils

from outrider.models.checkpoints.templates.environment import (
    GenerationBlocks,
    TemplateDict,
    TemplateNamespace,
    raise_exception,
    strftime_now,
)
from outrider.models.checkpoints.templates.limits import ExceededError, Meter, UnboundedError, Value

_MOST_BITS = 1 << 14
_WORD = re.compile(r"\S+")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_WIDE_FORMAT = re.compile(r"\d{3}")

_SHORTER = frozenset((
    "strip", "lstrip", "rstrip", "upper", "lower", "title", "capitalize", "swapcase",
    "casefold", "removeprefix", "removesuffix", "partition", "rpartition", "startswith",
    "endswith", "find", "rfind", "index", "rindex", "count", "isdigit", "isspace", "isalpha",
    "isnumeric", "isdecimal", "isupper", "islower", "isalnum", "istitle", "isidentifier",
    "isascii", "isprintable",
))  # fmt: skip
"""Methods of a text whose result is not longer than the text, by a small factor."""

_DICT = frozenset(("get", "items", "keys", "values"))

_FREE = frozenset((
    "length", "count", "first", "last", "default", "d", "items", "int", "float", "abs",
))  # fmt: skip
"""Filters that take constant time, or the time of one text."""

_TEXT = frozenset(["trim", "upper", "lower", "capitalize", "title", "string", "safe"])
_LAZY = frozenset(["map", "select", "reject", "selectattr", "rejectattr"])
_COMPARING = frozenset((
    "eq", "equalto", "ne", "in", "lt", "lessthan", "gt", "greaterthan", "ge", "le", "==", "!=",
    "<", ">", "<=", ">=", "divisibleby",
))  # fmt: skip

_FUNCTIONS = (
    TemplateNamespace,
    GenerationBlocks.written,
    jinja2.utils.Joiner,
    jinja2.utils.Cycler,
)


@runtime_checkable
class Metered(Protocol):
    """An environment with a meter."""

    meter: Meter


def length(meter: Meter, value: Value) -> int:
    """Return the length of a value as text, about."""
    if isinstance(value, str):
        return len(value)
    return 0 if isinstance(value, jinja2.Undefined) else meter.measure(value)


# -- operators -------------------------------------------------------------------------------


def check_operator(meter: Meter, sign: str, left: Value, right: Value) -> None:
    """Raise an error if the result of `left sign right` is too large."""
    meter.tick()
    if isinstance(left, float | int) and isinstance(right, float | int):
        _check_numbers(sign, left, right)
    elif sign == "+" and isinstance(left, str) and isinstance(right, str):
        meter.size(len(left) + len(right))
    elif sign == "+" and isinstance(left, list | tuple) and isinstance(right, list | tuple):
        meter.tick((len(left) + len(right)) >> 2)
        meter.size(8 * (len(left) + len(right)))
    elif sign == "*" and (isinstance(left, int) or isinstance(right, int)):
        times, value = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(value, str | list | tuple):
            raise UnboundedError(sign)
        meter.size((1 if isinstance(value, str) else 8) * len(value) * max(times, 0))
    elif isinstance(left, jinja2.Undefined) or isinstance(right, jinja2.Undefined):
        return  # an error
    elif sign == "%" or not isinstance(left, str | list | tuple | float | int):
        raise UnboundedError(sign)


def _check_numbers(sign: str, left: float, right: float) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = max(left.bit_length(), right.bit_length())
        if sign == "*":
            bits *= 2
        elif sign == "**":
            bits = left.bit_length() * max(right, 1)
        if bits > _MOST_BITS:
            raise ExceededError("value_characters")


# -- filters and tests -----------------------------------------------------------------------


def filter_of(environment: Metered, name: str, made: Callable[..., Value]) -> Callable[..., Value]:
    """Return a filter that measures its arguments before it runs."""
    if name in _FREE:
        return made
    first = int(hasattr(made, "jinja_pass_arg"))  # behind what the environment passes

    @wraps(made)
    def run(*args: Value, **kwargs: Value) -> Value:
        meter = environment.meter
        meter.tick()
        if name in _LAZY:
            return meter.ticking(made(*args, **kwargs))
        given = list(args)
        if name in _TEXT:
            size = length(meter, given[0])
            meter.size(size)
            meter.tick(size >> 1 if name == "title" else 1)  # it is split into words
        elif name == "tojson":
            _check_json(meter, *args, **kwargs)
        elif name == "list":
            given[first] = _listed(meter, given[first])
        elif name == "reverse" and isinstance(given[0], list | str):
            meter.tick(1 + (len(given[0]) >> 3))
        elif name == "join" and len(args) < 4 and "attribute" not in kwargs:
            given[1] = _listed(meter, given[1])
            _check_join(meter, (args[2:] or (kwargs.get("d", ""),))[0], given[1])
        elif name == "replace" and len(args) in (4, 5) and not kwargs:
            _check_replace(meter, *args[1:4])
        elif name == "dictsort":
            meter.size(8 * meter.measure(given[0]))
        elif name == "indent":
            _check_indent(meter, *args, **kwargs)
        else:
            raise UnboundedError(f"the filter {name}")
        return made(*given, **kwargs)

    return run


def test_of(environment: Metered, name: str, made: Callable[..., Value]) -> Callable[..., Value]:
    """Return a test that measures values before it compares them."""
    if name not in _COMPARING:
        return made

    @wraps(made)
    def run(*args: Value) -> Value:
        for value in args:
            length(environment.meter, value)
        environment.meter.tick()
        return made(*args)

    return run


def _listed(meter: Meter, values: Value) -> list[Value]:
    return list(meter.ticking(values))


def _check_join(meter: Meter, between: Value, items: list[Value]) -> None:
    size = sum(length(meter, item) for item in items)
    meter.size(size + length(meter, between) * len(items))


def _check_replace(meter: Meter, text: Value, old: Value, new: Value) -> None:
    if not (isinstance(text, str) and isinstance(old, str) and isinstance(new, str)):
        raise UnboundedError("replace")
    meter.size(len(text) + (text.count(old) if new else 0) * len(new))


def _check_indent(
    meter: Meter, text: Value, width: Value = 4, first: bool = False, blank: bool = False
) -> None:
    if not isinstance(text, str):
        raise UnboundedError("indent")
    each = width if isinstance(width, int) else length(meter, width)
    meter.size(len(text) + (_lines(text) + 1) * (max(each, 0) + 1))
    meter.tick(_lines(text))


def _check_json(
    meter: Meter,
    value: Value,
    ensure_ascii: bool = False,
    indent: Value = None,
    separators: Value = None,
    sort_keys: bool = False,
) -> None:
    size = meter.measure(value)
    if indent is not None:
        if not isinstance(indent, int) or indent > 16:
            raise UnboundedError("tojson")
        size *= 1 + max(indent, 0) * (meter.depth + 1) // 2  # a part counts at least 2
    if separators is not None and length(meter, separators) > 64:
        raise UnboundedError("tojson")
    meter.size(size)


def _lines(text: str) -> int:
    return sum(map(text.count, _LINE_ENDS)) + 1


# -- calls -----------------------------------------------------------------------------------


def check_call(
    environment: Metered, function: Value, args: tuple[Value, ...], kwargs: dict[str, Value]
) -> None:
    """Raise an error if a call may take too long, or is not known here."""
    meter = environment.meter
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    if type(owner) is str:
        _check_text_method(meter, owner, name, args, kwargs)
    elif type(owner) is dict and name in _DICT:
        for value in args[:1]:
            length(meter, value)
    elif function is strftime_now:
        if not (isinstance(args[0] if args else None, str) and len(args[0]) < 256):
            raise UnboundedError("strftime_now")
        if _WIDE_FORMAT.search(args[0]):
            raise UnboundedError("strftime_now")
    elif function is raise_exception or isinstance(function, TemplateDict) or name == "changed":
        for value in (*args, *kwargs.values()):
            length(meter, value)
    elif not _is_known(function, owner):
        raise UnboundedError(f"{type(owner).__name__}.{name}" if owner else name)


def _is_known(function: Value, owner: Value) -> bool:
    """Whether a function takes constant time, or counts its own steps."""
    if isinstance(function, jinja2.Undefined):
        return True  # an error
    if any(function is known for known in _FUNCTIONS):
        return True
    known = (jinja2.runtime.Macro, jinja2.runtime.LoopContext, jinja2.runtime.BlockReference)
    if isinstance(function, (*known, jinja2.utils.Joiner)):
        return True
    if getattr(function, "__name__", "") == "safe_range":
        return True
    owners = (jinja2.runtime.LoopContext, jinja2.utils.Cycler)
    return isinstance(function, MethodType) and isinstance(owner, owners)


def _check_text_method(
    meter: Meter, text: str, name: str, args: tuple[Value, ...], kwargs: dict[str, Value]
) -> None:
    if name in _SHORTER:
        meter.size(len(text))
    elif name in ("split", "rsplit"):
        separator = args[0] if args else kwargs.get("sep")
        if isinstance(separator, str) and separator:
            parts = text.count(separator)
            meter.tick(parts + 1)
        else:
            parts = sum(1 for _ in meter.ticking(_WORD.finditer(text)))
        meter.size(len(text) + 8 * parts)
    elif name == "splitlines":
        meter.tick(_lines(text))
        meter.size(len(text) + 8 * _lines(text))
    elif name == "replace" and len(args) in (2, 3) and not kwargs:
        _check_replace(meter, text, *args[:2])
    elif name == "join" and len(args) == 1 and isinstance(args[0], list | tuple):
        meter.tick(1 + (len(args[0]) >> 3))
        _check_join(meter, text, list(args[0]))
    else:
        raise UnboundedError(f"str.{name}")
