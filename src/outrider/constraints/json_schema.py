"""What JSON schemas hold; forms that an engine reads otherwise than the standard are refused."""

from collections.abc import Iterator, Mapping

from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

WHITESPACE = r"[ \n\t]{0,16}"
"""White space between the parts of JSON."""

_SINCE_2019 = ("2019-09", "2020-12")
"""Drafts in which an `$id` beside a `$ref` is not ignored."""


def parts_of(schema: JsonValue) -> Iterator[tuple[dict[str, JsonValue], int]]:
    """Yield each object inside a schema, with its depth, from 1."""
    waiting = [(schema, 1)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, dict):
            yield part, depth
            waiting += [(each, depth + 1) for each in part.values()]
        elif isinstance(part, list):
            waiting += [(each, depth + 1) for each in part]


def check_references(schema: JsonValue) -> None:
    """Refuse references whose meaning depends on the draft.

    Up to draft 7, `$ref` hides what stands beside it, an `$id` too; llguidance 1.9.1 takes that
    `$id` for the base of the reference, finds another schema and admits texts that are not valid
    (the suite of JSON Schema: "$ref prevents a sibling $id from changing the base uri").

    Raises:
        OptionError: there is such a reference.
    """
    draft = schema.get("$schema") if isinstance(schema, dict) else None
    if isinstance(draft, str) and any(name in draft for name in _SINCE_2019):
        return
    for part, depth in parts_of(schema):
        reference, own = part.get("$ref"), part.get("$id", part.get("id"))
        if not isinstance(reference, str) or not isinstance(own, str):
            continue
        inner = depth > 1 and ("definitions" in part or "$defs" in part)
        if inner or not reference.startswith("#"):
            raise OptionError(
                f"the JSON schema has $id {own[:60]!r} beside $ref {reference[:60]!r}, which "
                "drafts read differently",
                hint="Remove that $id, or write $ref from the root: #/...",
            )


def types_of(schema: Mapping[str, JsonValue], key: str) -> frozenset[str]:
    """Return the JSON types that a parameter may have; none if they are not known."""
    properties = schema.get("properties")
    open_parts: list[JsonValue] = [properties.get(key) if isinstance(properties, Mapping) else None]
    found, seen = set[str](), set[int]()
    while open_parts:
        one = open_parts.pop()
        if isinstance(one, Mapping) and id(one) not in seen:
            seen.add(id(one))
            found.update(_own_types(one))
            for name in ("anyOf", "oneOf", "allOf"):
                open_parts += _list(one.get(name))
            open_parts.append(referred(one.get("$ref"), schema))
    return frozenset(found)


def _own_types(one: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield the types that a schema names, without its alternatives."""
    declared = one.get("type")
    for name in [declared] if isinstance(declared, str) else _list(declared):
        if isinstance(name, str):
            yield name
    if one.get("nullable") is True:
        yield "null"
    if declared is None:
        allowed = [one["const"]] if "const" in one else _list(one.get("enum"))
        yield from (kind for value in allowed for kind in kinds_of(value))


def referred(place: JsonValue, root: Mapping[str, JsonValue]) -> JsonValue:
    """Return the part of a schema to which `#/...` refers, or None."""
    if not isinstance(place, str) or not place.startswith("#/"):
        return None
    found: JsonValue = root
    for step in place[2:].split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def kinds_of(value: JsonValue) -> tuple[str, ...]:
    """Return the JSON types of a value."""
    match value:
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("integer", "number") if value.is_integer() else ("number",)
        case None:
            return ("null",)
        case str():
            return ("string",)
        case list():
            return ("array",)
    return ("object",)
