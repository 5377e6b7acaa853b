"""JSON and its schemas, cut anywhere."""

import json
import random
from functools import cache
from itertools import pairwise
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.constraints.cfg.completion import shortest_fill
from outrider.constraints.cfg.emptiness import completable
from outrider.constraints.cfg.grammar import Grammar
from outrider.constraints.cfg.pattern import Pattern
from outrider.constraints.cfg.schema import json_grammar, schema_grammar
from outrider.core.errors import OptionError

TEXTS = (
    '{"a\\u00e9": [-0.5e+10, "é😀\\\\"], "": {}}',
    '[true, [], {"x": null}, "\\ud83d\\ude00"]',
    '"\\"\\\\\\/\\b"',
    "-12.75E-3",
)
PERSON = {
    "type": "object",
    "title": "a person",
    "properties": {
        "name": {"type": "string", "description": "any"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 3, None]}, "maxItems": 3},
        "at": {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/point"}]},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
    "$defs": {
        "point": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "next": {"$ref": "#/$defs/point"}},
            "required": ["x"],
        }
    },
}
SCHEMAS: list[tuple[Any, list[Any], list[Any]]] = [
    (
        PERSON,
        [
            {"name": "é\n", "age": 3, "tags": ["a", 3], "at": {"x": 1, "next": {"x": 2, "y": []}}},
            {"name": "", "tags": [], "at": 1.5},
        ],
        [
            {"name": "a"},
            {"tags": [], "name": "a"},  # another order
            {"name": 1, "tags": []},
            {"name": "a", "tags": ["c"]},
            {"name": "a", "tags": ["a"] * 4},
            {"name": "a", "tags": [], "at": {"next": {"x": 1}}},
            {"name": "a", "tags": [], "more": 1},
        ],
    ),
    (
        {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": ["string"]}},
        [{"a": None, "b": "x"}, {"b": ""}, {}, [1], "text", 3, None],
        [{"b": 1}, {"a": "x"}, {"b": "", "a": None}],
    ),
    (
        {"type": "object", "required": ["k", "z"], "properties": {"k": True}},
        [{"k": 1, "z": [2]}, {"k": {}, "z": 0, "more": 1}],
        [{"k": 1}, {"z": 1}, {}],
    ),
    (
        {"type": ["array", "boolean"], "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        [[True, False], [True] * 3, False],
        [[], [True], [True] * 4, [1, 2]],
    ),
    ({"type": "array", "items": False}, [[]], [[1]]),
    ({"type": "array", "minItems": 2}, [[1, 2], [1, [2], 3]], [[1]]),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"const": {"k": [1, {}], "é": []}}, [{"k": [1, {}], "é": []}], [{"k": [1, {}]}, {}]),
    ({"enum": ["a", 1, 2.5, None], "type": ["string", "number"]}, ["a", 1, 2.5], [None, "b"]),
    ({"type": "integer"}, [0, -12], [1.5, "1"]),
    ({"type": ["integer", "number"]}, [0, -1.5e3], ["1"]),
    ({"anyOf": [{"const": "x"}, {"type": "object", "maxItems": 3}]}, ["x", {"a": 1}], ["y", [1]]),
    ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
]


@cache
def any_json() -> Grammar:
    return json_grammar()


def written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def completion(grammar: Grammar, pattern: Pattern) -> bytes | None:
    """The completion of a text with gaps; both ways of deciding agree that there is one."""
    fills = shortest_fill(grammar, pattern)
    assert completable(grammar, pattern) == (fills is not None), pattern
    if fills is None:
        return None
    whole = pattern.filled(fills)
    assert completable(grammar, Pattern(whole)), (pattern, whole)
    return whole


@pytest.mark.parametrize("text", TEXTS)
def test_json_cut_at_any_two_places(text: str) -> None:
    data = text.encode()
    for begin in range(len(data) + 1):
        for end in {begin, begin + 1, begin + 4} & set(range(len(data) + 1)):
            whole = completion(any_json(), Pattern.of([data[:begin], data[end:]]))
            assert whole is not None
            json.loads(whole)
        for pattern in (Pattern.of([data[:begin], b""]), Pattern.of([b"", data[begin:]])):
            whole = completion(any_json(), pattern)
            assert whole is not None
            json.loads(whole)


def loads(data: bytes) -> bool:
    """Whether a text is JSON without white space around it."""
    try:
        json.loads(data.decode(), parse_constant=lambda name: json.loads(""))
    except ValueError:
        return False
    return data == data.strip()


@given(st.sampled_from(TEXTS), st.integers(0, 2**32))
def test_changed_texts_are_allowed_where_they_are_json(text: str, seed: int) -> None:
    rng, data = random.Random(seed), bytearray(text.encode())
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data))
        new = rng.choice(b'{}[]",:0123456789.eE+-tn\\/u \n\t\x7f\x1fab\xc3\xa9\xff')
        data[place : place + rng.randint(0, 2)] = bytes((new,)) * rng.randint(0, 1)
        data = data or bytearray(b"1")
    assert completable(any_json(), Pattern(bytes(data))) == loads(bytes(data))


@pytest.mark.parametrize(
    "runs",
    [
        [b'"\\', b"q", b""],  # what a gap holds decides: here it may end the escape
        [b'["\xc3', b"]"],
        [b'"\xe2\x82', b'"'],
        [b"1", b".", b"5"],
        [b"-", b""],
        [b'{"a', b":", b"}"],
        [b"", b"}}", b""],
        [b"", b"\\u00", b"]"],
        [b"t", b"e"],
        [b"[1", b'2, "', b"3]"],
    ],
)
def test_parts_that_become_json(runs: list[bytes]) -> None:
    whole = completion(any_json(), Pattern.of(runs))
    assert whole is not None
    json.loads(whole)


@pytest.mark.parametrize(
    "runs",
    [
        [b'"\\q', b""],
        [b'"\xff', b""],
        [b'"\xed\xa0', b""],  # a surrogate
        [b'"\xc3"', b""],
        [b"01", b""],
        [b"1.", b"", b"x"],
        [b"[1,]", b""],
        [b"", b"\x01", b""],
        [b"tx", b""],
        [b"{1", b""],
        [b'{"a" "', b""],
        [b"--", b""],
        [b'"a" ', b""],
        [b"[", b"}"],
        [b'"\\u00g', b""],
    ],
)
def test_parts_that_never_become_json(runs: list[bytes]) -> None:
    assert completion(any_json(), Pattern.of(runs)) is None


def test_white_space() -> None:
    compact, free = json_grammar("compact"), json_grammar("flexible")
    one = json_grammar(" ?")
    assert completable(compact, Pattern(b'{"a":[1,2]}'))
    for text, grammars in (
        (b'{"a": [1,2]}', (any_json(), free, one)),
        (b"[ ]", (any_json(), free, one)),
        (b"[\n\t1]", (any_json(), free)),
        (b"[" + b" " * 17 + b"1]", (free,)),
        (b"[\r1]", (free,)),
    ):
        for grammar in (compact, any_json(), free, one):
            assert completable(grammar, Pattern(text)) == (grammar in grammars), text


@pytest.mark.parametrize(("schema", "valid", "invalid"), SCHEMAS)
def test_schemas(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    grammar, validator = schema_grammar(schema), jsonschema_rs.validator_for(schema)
    for value in invalid:
        assert not completable(grammar, Pattern(written(value).encode())), value
    rng = random.Random(3)
    for value in valid:
        data = written(value).encode()
        assert completable(grammar, Pattern(data)), value
        for _ in range(12):
            cuts = sorted(rng.randrange(len(data) + 1) for _ in range(2 * rng.randint(1, 3)))
            bounds = [0, *cuts, len(data)]
            runs = [data[a:b] for a, b in list(pairwise(bounds))[::2]]
            whole = completion(grammar, Pattern.of(runs))
            assert whole is not None, runs
            assert validator.is_valid(json.loads(whole)), (runs, whole)
        for place in range(0, len(data), 3):  # a wrong byte
            changed = data[:place] + rng.choice(b'"{}[]:,1ax').to_bytes() + data[place + 1 :]
            whole = completion(grammar, Pattern.of([changed[: place + 1], changed[place + 3 :]]))
            assert whole is None or validator.is_valid(json.loads(whole)), whole


def test_other_spellings_of_a_key_are_no_other_key() -> None:
    grammar = schema_grammar({"properties": {"aé/": {"type": "null"}}})
    for key in (r'"\u0061é/"', r'"a\u00E9\/"', r'"aé\u002f"', '"aé/"'):
        assert not completable(grammar, Pattern(f"{{{key}: 1}}".encode())), key
    assert completable(grammar, Pattern(r'{"\u0062é/": 1, "aé": 2}'.encode()))
    wide = schema_grammar({"properties": {"😀": False}})
    assert not completable(wide, Pattern(rb'{"\uD83d\ude00": 1}'))
    assert completable(wide, Pattern(rb'{"\uD83d\ude01": 1}'))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "string", "pattern": "a"}, "'pattern'"),
        ({"properties": {"a": {"minimum": 3}}}, "'minimum'"),
        ({"items": {"oneOf": []}}, "'oneOf'"),
        ({"const": 1, "anyOf": []}, "'const' and 'anyOf'"),
        ({"$ref": "#/$defs/a", "type": "object"}, "'\\$ref' and 'type'"),
        ({"$ref": "#/$defs/a"}, "refers to #/\\$defs/a"),
        ({"$ref": "https://a.example"}, "refers to https"),
        ({"type": "text"}, "type 'text'"),
        ({"enum": 3}, "enum .* no list"),
        ({"required": "a"}, "required .* no list"),
        ({"properties": []}, "properties .* no object"),
        ({"items": 3}, "no schema"),
        ({"maxItems": 65}, "maxItems"),
        ({"minItems": -1}, "minItems"),
        ({"minItems": 1.5}, "minItems"),
    ],
)
def test_what_is_not_read_is_refused_by_name(schema: Any, why: str) -> None:
    with pytest.raises(OptionError, match=why) as caught:
        schema_grammar(schema)
    assert "\n" not in str(caught.value)


def test_schemas_that_no_text_fits() -> None:
    for schema in (
        False,
        {"anyOf": []},
        {"$ref": "#"},
        {"minItems": 3, "maxItems": 2, "type": "array"},
    ):
        grammar = schema_grammar(schema)
        assert not completable(grammar, Pattern.of([b"", b""])), schema
