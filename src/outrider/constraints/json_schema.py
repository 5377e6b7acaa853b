"""Forms of JSON schemas that an engine reads otherwise than the standard: refused beforehand."""

from collections.abc import Iterator

from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

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
