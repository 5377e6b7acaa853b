"""Declares the values that fields of a JSON file may hold, and checks a file against a table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.limits import CheckpointLimits, raise_limit

Kind = Literal["whole number", "number", "text", "true or false", "object"]

_INF = float("inf")
_LARGEST = 1e300
"""Larger whole numbers have no float."""
_CORRECT = "Correct the file, or download it again"


class FieldError(CheckpointError):
    """A field of a file holds a wrong value; no runner can use it."""


@dataclass(frozen=True, slots=True)
class Field:
    """The values of one field.

    Attributes:
        name: the field.
        kinds: the kinds of values; a bool is no number, and numbers are finite.
        least: the smallest number.
        most: the largest number, or the name of a limit that ids and sizes must not exceed.
        above: `least` itself is excluded.
        null: null is accepted.
        levels: how many lists may surround a value: (0,) none, (0, 1) none or one.
        needed: the field must be there.
    """

    name: str
    kinds: tuple[Kind, ...]
    _: KW_ONLY
    least: float = -_INF
    most: float | str = _INF
    above: bool = False
    null: bool = True
    levels: tuple[int, ...] = (0,)
    needed: bool = False

    def check(self, file: str, value: JsonValue, inside: str = "") -> None:
        """Raise an error unless the field may hold `value`.

        Args:
            file: the file in the message.
            value: what it holds.
            inside: the object that holds the field, such as `text_config.`.

        Raises:
            FieldError: names file, field, value and what was expected.
        """
        if value is None and self.null:
            return
        if not any(self._fits(value, level) for level in self.levels):
            shown = "null" if value is None else f"{value!r:.60}"
            raise FieldError(
                f"{file} has {inside}{self.name} {shown}, expected {self}", hint=self._hint(value)
            )

    def _fits(self, value: JsonValue, level: int) -> bool:
        if level:
            return isinstance(value, list) and all(self._fits(one, level - 1) for one in value)
        return any(_is(value, kind) for kind in self.kinds) and self._in_range(value)

    def _in_range(self, value: JsonValue) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        low = value > self.least if self.above else value >= self.least
        return low and value <= self._most

    @property
    def _most(self) -> float:
        if isinstance(self.most, str):
            return getattr(CheckpointLimits.current(), self.most)
        return self.most

    def _hint(self, value: JsonValue) -> str:
        if isinstance(self.most, str) and _is(value, "number") and value > self._most:
            return f"{_CORRECT}. {raise_limit(self.most)}"
        return _CORRECT

    def __str__(self) -> str:
        """Describe the values, such as `a whole number from 1 to 4096, or null`."""
        kinds = [_article(kind) for kind in self.kinds]
        found = " or ".join(kinds)
        if self.least > -_INF:
            found += f" {'above' if self.above else 'from'} {self.least:g}"
        if self._most < _INF:
            found += f" {'to' if self.least > -_INF else 'up to'} {self._most}"
        if self.levels == (0, 1):
            found += ", or a list of them"
        elif self.levels != (0,):
            found = "a list of " * max(self.levels) + f"values, each {found}"
        return f"{found}, or null" if self.null else found


def check_fields(
    file: str, content: Mapping[str, JsonValue], table: Iterable[Field], inside: str = ""
) -> None:
    """Check the fields of a file against a table; other fields may hold anything.

    Args:
        file: the file in messages.
        content: its object, or an object inside it.
        table: the known fields.
        inside: the path of an object inside the file, such as `text_config.`.

    Raises:
        FieldError: names the first field that is missing or holds a wrong value.
    """
    for field in table:
        if field.name in content:
            field.check(file, content[field.name], inside)
        elif field.needed:
            raise FieldError(f"{file} has no {inside}{field.name}, expected {field}", hint=_CORRECT)


def check_values(
    file: str, name: str, content: Mapping[str, JsonValue], kinds: Sequence[Kind], least: float = 0
) -> None:
    """Check all values of the object `name`, whose keys are free. Raises `FieldError`."""
    value_of = Field("", tuple(kinds), least=least, null=False)
    for key, value in content.items():
        value_of.check(file, value, f"{name}[{key!r:.60}]")


def _is(value: JsonValue, kind: Kind) -> bool:
    match kind:
        case "whole number":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            whole = isinstance(value, int) and not isinstance(value, bool)
            return (whole or isinstance(value, float)) and -_LARGEST <= value <= _LARGEST
        case "text":
            return isinstance(value, str)
        case "true or false":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, dict)


def _article(kind: Kind) -> str:
    if kind in ("text", "true or false"):
        return kind
    return f"an {kind}" if kind == "object" else f"a {kind}"
