"""References of schemas."""

import pytest

from outrider.constraints.json_schema import check_references
from outrider.constraints.limits import GrammarLimits
from outrider.core.errors import OptionError
from outrider.sampling.constraint import Constraint

ELSEWHERE = "https://example.com/a.json"
NESTED: dict[str, object] = {"type": "object"}
for _ in range(40):
    NESTED = {"properties": {"a": NESTED}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"enum": ["x" * (256 << 10)]}, "has 262158 bytes. At most 262144"),
        (NESTED, "nested too deeply"),
        ({"properties": {str(n): {} for n in range(4097)}}, "too many properties"),
        ({"items": {"$ref": ELSEWHERE}}, "refers to https://example.com/a.json"),
        ({"$id": "https://example.com/b.json", "$ref": ELSEWHERE}, "refers to"),
        ({"minItems": 100_001}, "minItems of the JSON schema is 100001"),
    ],
)
def test_limits(schema: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GrammarLimits().check(Constraint.json_schema(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"$id": ELSEWHERE + "#", "items": {"$ref": ELSEWHERE + "#"}},
        {"maxItems": 10**9, "minItems": 100_000},
        {"$ref": "#/$defs/a", "$defs": {"a": {}}},
        True,
    ],
)
def test_what_passes(schema: object) -> None:
    GrammarLimits().check(Constraint.json_schema(schema))


def test_a_text_that_is_no_json() -> None:
    with pytest.raises(OptionError, match="is no JSON"):
        GrammarLimits().check(Constraint(kind="json", source="{"))


BASE = {
    "$id": "http://example.com/base/",
    "definitions": {"a": {"$id": "a.json", "type": "number"}},
    "allOf": [{"$id": "http://example.com/", "$ref": "a.json"}],
}


def test_an_id_beside_a_reference_is_refused_where_drafts_differ() -> None:
    with pytest.raises(OptionError, match=r"has \$id 'http://example.com/' beside \$ref 'a.json'"):
        check_references(BASE)
    check_references({"$schema": "https://json-schema.org/draft/2020-12/schema", **BASE})
    check_references({"$id": "http://example.com/", "$ref": "#/definitions/a"})
    check_references({"properties": {"id": {"type": "string"}, "$ref": {"type": "string"}}})
