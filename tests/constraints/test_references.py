"""References whose meaning depends on the draft are refused."""

import pytest

from outrider.constraints.json_schema import check_references
from outrider.core.errors import OptionError

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
