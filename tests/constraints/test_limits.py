"""Grammars that are too large are refused before an engine reads them."""

import json
from typing import Any

import pytest

from outrider.constraints.limits import GrammarLimits
from outrider.core.errors import OptionError
from outrider.sampling.constraint import Constraint

LIMITS = GrammarLimits(size=400, depth=6, properties=3, count=10)
ELSEWHERE = "https://a.example/b.json"


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many objects inside each other, the innermost one included."""
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested(6),
        {"properties": {"a": {"properties": {"b": {}, "c": {}}}}},
        {"minItems": 10, "maxLength": 10**9},
        {"$ref": "#/$defs/a", "$defs": {"a": {}}},
        {"$ref": "other.json#a://b"},
        {"enum": ["x" * 380]},
        {"properties": []},
        {"minItems": "many"},
        {"$id": f"{ELSEWHERE}#", "items": {"$ref": f"{ELSEWHERE}#"}},
    ],
)
def test_what_is_within_the_limits_passes(schema: dict[str, Any]) -> None:
    LIMITS.check(Constraint.json_schema(schema))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (nested(7), "the JSON schema is nested too deeply. At most 6 levels are read"),
        ({"allOf": [{"anyOf": [{"not": [{}]}]}]}, "the JSON schema is nested too deeply"),
        (
            {"properties": {"a": {"properties": {"b": {}, "c": {}, "d": {}}}}},
            "the JSON schema has too many properties. At most 3 are read",
        ),
        ({"items": {"minItems": 11}}, "minItems of the JSON schema is 11. Give at most 10"),
        ({"minItems": 10**330}, "minItems of the JSON schema is a whole number of more than 60"),
        ({"minLength": 1e30}, "minLength of the JSON schema is 1e+30. Give at most 10"),
        (
            {"items": [{"$ref": f"{ELSEWHERE}#/c"}]},
            f"the JSON schema refers to {ELSEWHERE}#/c. Put that schema into $defs",
        ),
        ({"$id": "https://a.example/c.json", "$ref": ELSEWHERE}, "the JSON schema refers to"),
        ({"enum": ["x" * 400]}, "the json constraint has 414 bytes. At most 400 are read"),
    ],
)
def test_what_exceeds_a_limit_is_named(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        LIMITS.check(Constraint.json_schema(schema))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("fits", "exceeds", "message"),
    [
        (
            {"enum": ["x" * ((256 << 10) - 14)]},
            {"enum": ["x" * ((256 << 10) - 13)]},
            "the json constraint has 262145 bytes",
        ),
        (nested(64), nested(65), "the JSON schema is nested too deeply. At most 64 levels"),
        (
            {"properties": {str(n): {} for n in range(4096)}},
            {"properties": {str(n): {} for n in range(4097)}},
            "the JSON schema has too many properties. At most 4096",
        ),
        (
            {"maxItems": 10**9, "minItems": 100_000},
            {"minItems": 100_001},
            "minItems of the JSON schema is 100001. Give at most 100000",
        ),
    ],
)
def test_limits_that_hold_without_others(
    fits: dict[str, Any], exceeds: dict[str, Any], message: str
) -> None:
    GrammarLimits().check(Constraint.json_schema(fits))
    with pytest.raises(OptionError) as raised:
        GrammarLimits().check(Constraint.json_schema(exceeds))
    assert str(raised.value).startswith(message)


def test_a_text_that_is_no_json() -> None:
    with pytest.raises(OptionError, match="is no JSON"):
        LIMITS.check(Constraint(kind="json", source="{"))


def test_sizes_count_bytes_of_every_kind() -> None:
    LIMITS.check(Constraint.regex("a" * 400))
    with pytest.raises(OptionError, match="the regex constraint has 402 bytes"):
        LIMITS.check(Constraint.regex("é" * 201))


def test_depth_is_checked_without_recursion() -> None:
    deep = Constraint(kind="json", source=json.dumps(nested(900)))
    with pytest.raises(OptionError, match="nested too deeply"):
        GrammarLimits(size=1 << 20).check(deep)
