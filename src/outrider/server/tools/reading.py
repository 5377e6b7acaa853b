"""Reads calls written as JSON, and finds the end of JSON in a text that arrives in pieces."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from outrider.server.schema.base import FUNCTION_NAME
from outrider.server.tools.calls import FunctionCall

_NAME = re.compile(FUNCTION_NAME)
_IN_STRING = re.compile(r'["\\]')


def is_name(text: str) -> bool:
    """Whether a function can have this name."""
    return _NAME.fullmatch(text) is not None


def read_call(text: str) -> FunctionCall | None:
    """Return the call that `text` holds, or None if it is no call."""
    try:
        data = strict_json(text)
    except (ValueError, RecursionError):
        return None
    return as_call(data)


def as_call(data: Any) -> FunctionCall | None:
    """Return the call that a decoded object describes, or None."""
    if not isinstance(data, dict):
        return None
    name = data.get("name")
    if not isinstance(name, str) or not is_name(name):
        return None
    arguments = data.get("arguments", data.get("parameters", {}))
    try:
        text = arguments if isinstance(arguments, str) else json_text(arguments)
    except (ValueError, TypeError, RecursionError):
        return None
    return FunctionCall(name, text) if is_text(text) else None


def strict_json(text: str) -> Any:
    """Return the value of a text.

    Raises:
        ValueError: it is no JSON, or holds `NaN` or `Infinity`.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def json_text(value: Any) -> str:
    """Return a value as JSON. Characters that are half of a surrogate pair stay escaped.

    Raises:
        ValueError: the value is not finite, or no JSON.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if is_text(text) else json.dumps(value, allow_nan=False)


def is_text(text: str) -> bool:
    """Whether a text can be encoded: it holds no halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_object(text: str) -> bool:
    """Whether a text is the JSON of one object."""
    try:
        return isinstance(strict_json(text), dict)
    except (ValueError, RecursionError):
        return False


def overlap(text: str, marks: tuple[str, ...]) -> int:
    """Return how many characters at the end of a text may be the begin of a mark."""
    longest = max(map(len, marks), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-size:]) for mark in marks):
            return size
    return 0


@dataclass(slots=True)
class JsonScan:
    """Finds the end of an object or a list, in a text that arrives in pieces.

    Attributes:
        stops: marks that end the text wherever they are outside a string.
        depth: brackets that are open.
        done: the end was found, or a mark.
    """

    stops: tuple[str, ...] = ()
    depth: int = 0
    done: bool = False
    _in_string: bool = False
    _escaped: bool = False

    def run(self, text: str, at: int, final: bool) -> int:
        """Read on from `at`; return how far the text belongs to the JSON.

        The rest of the text must be given again, unless this is the end (`done`). `final`: no text
        follows, so that the begin of a mark is none.
        """
        outside = _outside(self.stops)
        safe = len(text) - (0 if final else overlap(text, self.stops))
        while at < len(text) and not self.done:
            if self._escaped:
                self._escaped, at = False, at + 1
            elif self._in_string:
                found = _IN_STRING.search(text, at)
                if found is None:
                    return len(text)
                self._in_string = found.group() != '"'
                self._escaped = found.group() == "\\"
                at = found.end()
            else:
                found = outside.search(text, at)
                if found is None or found.start() >= safe:
                    return max(at, safe)
                at = self._structure(found)
        return at

    def _structure(self, found: re.Match[str]) -> int:
        """Take a mark, a bracket or a quote; return where the text goes on."""
        what = found.group()
        if what in self.stops:
            self.done = True
            return found.start()
        if what == '"':
            self._in_string = True
        else:
            self.depth += 1 if what in "{[" else -1
            self.done = self.depth == 0
        return found.end()


@lru_cache(maxsize=64)
def _outside(stops: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join([*map(re.escape, stops), r'["{}\[\]]']))
