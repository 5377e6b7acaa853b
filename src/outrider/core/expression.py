"""Methods as text: `sam`, `typical(epsilon=0.2)`, `switch(sam,recycling,at_least=5)`.

    expression = name [ "(" [ argument { "," argument } ] ")" ]
    argument   = expression | option "=" value
    value      = number | "true" | "false" | "none" | name | text | "(" number { "," number } ")"

A text is written in quotes, "..." or '...', and may hold anything, such as a path with spaces: a
backslash before the quote or before another backslash stands for that character. Options come after
all expressions. Spaces outside texts are ignored.
"""

import re
from dataclasses import dataclass, field

from outrider.core.errors import OptionError

_WORD = r"[A-Za-z0-9_.+\-%/~]+"
_QUOTED = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
_TOKEN = re.compile(rf"\s*({_WORD}|[(),=]|{_QUOTED})", re.S)
_PART = re.compile(rf"{_QUOTED}|.", re.S)
_QUOTES = ("'", '"')
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+\-]*")
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "none": None}
_EXAMPLE = (
    """Write name, name(option=value), name(option="a text") or name(name,name,option=value)"""
)

Value = int | float | str | bool | tuple[int, ...] | None
"""A value of an option, as text and Python give it."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: a method with its arguments.

    Attributes:
        name: name of the method.
        inner: the methods that it combines.
        options: its options by name.
    """

    name: str
    inner: tuple["Expression", ...] = ()
    options: dict[str, Value] = field(default_factory=dict[str, Value])

    @classmethod
    def parse(cls, text: str, what: str = "method") -> "Expression":
        """Parse an expression.

        Args:
            text: the expression.
            what: the kind of method for the error message: drafter, rule, ...

        Raises:
            OptionError: `text` is not an expression; the message contains the position.
        """
        reader = _Reader(text, what)
        found = reader.expression()
        reader.end()
        return found


def split_list(text: str) -> list[str]:
    """Split a list at commas outside parentheses and texts, and strip spaces around the parts."""
    parts, depth = [""], 0
    for part in _PART.findall(text):
        depth += (part == "(") - (part == ")")
        if part == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += part
    return [part.strip() for part in parts if part.strip()]


def quoted(text: str) -> str:
    """Return a text as a value of an expression: in quotes, unless it reads as a name."""
    if re.fullmatch(_WORD, text) and text not in _CONSTANTS and isinstance(_number(text), str):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_DEEPEST = 32
"""Expressions inside each other, at most."""


class _Reader:
    """A recursive-descent parser that reads one expression from left to right."""

    def __init__(self, text: str, what: str) -> None:
        self.text, self.what = text, what
        self.tokens = self._tokens()
        self.place = self.depth = 0

    def _tokens(self) -> list[str]:
        found: list[str] = []
        at = 0
        while self.text[at:].strip():
            match = _TOKEN.match(self.text, at)
            if match is None:
                raise self._error(_unexpected(self.text[at:].strip()[0]))
            found.append(match[1])
            at = match.end()
        return found

    def expression(self) -> Expression:
        name = self._take("a name")
        if not _NAME.fullmatch(name):
            raise self._error(f"{name!r} is not a name")
        if self._next() != "(":
            return Expression(name)
        self._take("(")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._error("there are too many parentheses")
        inner: list[Expression] = []
        options: dict[str, Value] = {}
        while self._next() != ")":
            self._argument(inner, options)
            if self._next() != ",":
                break
            self._take(",")
        self._close()
        self.depth -= 1
        return Expression(name, tuple(inner), options)

    def _argument(self, inner: list[Expression], options: dict[str, Value]) -> None:
        if self._next(1) != "=":
            if options:
                raise self._error("options come last")
            inner.append(self.expression())
            return
        key = self._take("an option")
        if not _NAME.fullmatch(key):
            raise self._error(f"{key!r} is not the name of an option")
        if key in options:
            raise self._error(f"option {key} is given twice")
        self._take("=")
        options[key] = self._value()

    def _value(self) -> Value:
        token = self._take("a value")
        if token == "(":
            numbers: list[int] = []
            while self._next() not in (")", ""):
                number = _number(self._take("a number"))
                if not isinstance(number, int):
                    raise self._error("whole numbers are expected in parentheses")
                numbers.append(number)
                if self._next() != ",":
                    break
                self._take(",")
            self._close()
            return tuple(numbers)
        if token in ("(", ")", ",", "="):
            raise self._error(f"a value is missing before {token!r}")
        if token.startswith(_QUOTES):
            return re.sub(rf"\\([\\{token[0]}])", r"\1", token[1:-1])
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        return _number(token)

    def end(self) -> None:
        if self._next():
            raise self._error(f"{self._next()!r} is not expected")

    def _close(self) -> None:
        if self._next() != ")":
            raise self._error(f"')' is missing{f' before {self._next()!r}' * bool(self._next())}")
        self._take(")")

    def _next(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def _take(self, expected: str) -> str:
        token = self._next()
        if not token:
            raise self._error(f"{expected} is missing at the end")
        self.place += 1
        return token

    def _error(self, problem: str) -> OptionError:
        return OptionError(f"{self.what} {self.text!r}: {problem}", hint=_EXAMPLE)


def _unexpected(letter: str) -> str:
    """Say what is wrong where no token begins with `letter`."""
    if letter in _QUOTES:
        return f"a text has no end: {letter} is missing"
    return f"{letter!r} is not expected"


def _number(token: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(token)
        except ValueError:
            pass
    return token
