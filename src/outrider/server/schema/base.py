"""What all request models share: known fields, and what becomes of unknown ones."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from outrider.core.checks import shown
from outrider.server.errors import ApiError, invalid, unsupported

FUNCTION_NAME = r"^[a-zA-Z0-9_.-]{1,128}$"
"""Pattern of names of functions."""

_SIMILAR = 0.85
"""Names at least this similar to a known one are taken for a misspelling."""


_MOST_UNKNOWN = 1000
"""Largest number of unknown fields of a body."""
_COMPARED, _LONGEST = 32, 64
"""Number of unknown fields that are compared with the known ones, and their length at most: the
comparison takes long."""

_ALTERNATIVES = ("str", "int", "float", "bool", "list", "dict")


def _whole(value: object) -> object:
    """Return 5 for 5.0, which is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _flag(value: object) -> object:
    """Refuse numbers that are equal to a truth value in Python."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("Input should be a boolean")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Off = Annotated[Literal[False], BeforeValidator(_flag)]
On = Annotated[Literal[True], BeforeValidator(_flag)]


class Known(BaseModel):
    """A part of a request that keeps fields which it does not know.

    Values have the types of the description: no text is taken for a number, and no number for a
    truth value.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=(), strict=True)


class Body(Known):
    """The body of a request.

    Attributes:
        refused: fields that the server knows and does not honour, with the reason.
        changing: fields of other servers that would change the text.
        elsewhere: fields of the other endpoints that answers of this form have no place for.
    """

    refused: ClassVar[Mapping[str, str]] = {}
    changing: ClassVar[tuple[str, ...]] = ()
    elsewhere: ClassVar[tuple[str, ...]] = ()

    def check_fields(self, unknown: str) -> list[str]:
        """Return the names of fields that are ignored.

        Args:
            unknown: `ignore` or `refuse`.

        Raises:
            ApiError: a field is refused, unknown and similar to a known one, or unknown at all with
                `refuse`.
        """
        extra = {name: v for name, v in (self.model_extra or {}).items() if v is not None}
        if len(extra) > _MOST_UNKNOWN:
            raise invalid(f"the body has {len(extra)} unknown fields. Give at most {_MOST_UNKNOWN}")
        known = list(type(self).model_fields)
        for number, name in enumerate(extra):
            if name in self.refused:
                raise unsupported(name, self.refused[name])
            if name in self.changing:
                raise unsupported(name, "it would change the text")
            if number >= _COMPARED or len(name) > _LONGEST:
                continue
            if close := difflib.get_close_matches(name, known, n=1, cutoff=_SIMILAR):
                raise invalid(
                    f"unknown field {name!r}. Did you mean {close[0]!r}?", name, "unknown_field"
                )
        nested = list(_nested(self))
        ignored = [*extra, *dict.fromkeys(nested)]
        if ignored and unknown == "refuse":
            raise invalid(f"unknown field {ignored[0]!r:.80}", ignored[0][:80], "unknown_field")
        return ignored


def _nested(value: Any, path: str = "") -> Iterator[str]:
    """Yield the unknown fields of the parts of a model."""
    if isinstance(value, Known):
        if path:
            yield from (f"{path}.{name}" for name in value.model_extra or ())
        for name in type(value).model_fields:
            yield from _nested(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for part in value:
            if isinstance(part, Known | list):
                yield from _nested(part, path)


M = TypeVar("M", bound=Body)


def parse(model: type[M], data: object) -> M:
    """Check a decoded body against a model.

    Raises:
        ApiError: it does not fit; the message names the field, the value and what was expected.
    """
    if not isinstance(data, dict):
        raise invalid(f"the body is {shown(data)}. Give a JSON object")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explained(error) from None


K = TypeVar("K", bound=Known)


def parse_part(model: type[K], data: object, place: str) -> K:
    """Check a part of a request. Raises `ApiError` that names its place."""
    if isinstance(data, model):
        return data
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = _explained(error)
        raise invalid(f"{place}: {found.message}", place, found.code) from None


def _explained(error: ValidationError) -> ApiError:
    """Return the first of the errors; of a union, the one that came furthest."""
    found = max(error.errors(include_url=False), key=lambda one: len(one["loc"]))
    path = list(_readable(found["loc"]))
    field = ".".join(path)
    reason = found["msg"].removeprefix("Value error, ").rstrip(".")
    if found["type"] == "missing":
        return invalid(f"the field {field!r} is missing", field, "missing_field")
    given = shown(found["input"])
    return invalid(f"{field} is {given}. {reason}", field)


def _readable(place: Iterable[int | str]) -> Iterator[str]:
    """Yield the parts of a place without the names of alternatives, which pydantic adds."""
    for depth, part in enumerate(place):
        named = isinstance(part, str) and part.isidentifier() and part[:1].islower()
        if depth == 0 or isinstance(part, int) or (named and part not in _ALTERNATIVES):
            yield str(part)
