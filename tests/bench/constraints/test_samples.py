"""Schemas of many forms: no invalid instance is admitted, and (almost) every valid one is."""

import os
from functools import cache
from random import Random

import pytest

from outrider.bench.constraints.cases import Case
from outrider.bench.constraints.child import Child
from outrider.bench.constraints.figures import ALL, summary
from outrider.core.errors import OptionError
from tests.bench.constraints.setups import FOLDER, MISSING, case, sample, vocabulary

pytest.importorskip("llguidance")
pytest.importorskip("jsonschema_rs")

from outrider.bench.constraints.engines import compiler
from outrider.bench.constraints.measure import Meter
from outrider.constraints.limits import GrammarLimits
from outrider.sampling.constraint import Constraint

needs_bench = pytest.mark.skipif(FOLDER not in os.environ, reason=MISSING)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "left": {"$ref": "#/$defs/node"},
                "value": {"type": ["integer", "null"]},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}
OWN = (
    case(
        PERSON,
        ({"name": "Bo", "age": 0}, True),
        ({"name": "Bo", "age": 149, "tags": ["a", "b"]}, True),
        ({"name": "", "age": 0}, False),
        ({"name": "Robert", "age": 0}, False),
        ({"name": "Bo", "age": 150}, False),
        ({"name": "Bo", "age": -1}, False),
        ({"name": "Bo", "age": 1.5}, False),
        ({"name": "Bo"}, False),
        ({"name": "Bo", "age": 1, "tags": ["a", "b", "a"]}, False),
        ({"name": "Bo", "age": 1, "more": 1}, False),
    ),
    case(
        TREE,
        ({"value": None}, True),
        ({"left": {"left": {"value": 1}, "value": 2}, "value": 3}, True),
        ({"left": {"left": {}, "value": 2}, "value": 3}, False),
        ({"value": "x"}, False),
    ),
    case(
        {"anyOf": [{"type": "string", "pattern": "^[a-c]+$"}, {"const": {"x": [1, True]}}]},
        ("abc", True),
        ({"x": [1, True]}, True),
        ("abd", False),
        ({"x": [1, False]}, False),
    ),
    case(
        {"oneOf": [{"type": "string"}, {"type": "number", "multipleOf": 5}]},
        ("x", True),
        (15, True),
        (16, False),
        (None, False),
    ),
    case(
        {"type": "object", "additionalProperties": {"type": "boolean"}},
        ({}, True),
        ({"any": True, "other \u00e9": False}, True),
        ({"any": 1}, False),
        ([], False),
    ),
    case(
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "null"}], "items": False},
        (["x", None], True),
        (["x", None, 1], False),
        ([None, None], False),
    ),
    case(
        {"type": "string", "format": "ipv4"},
        ("127.0.0.1", True),
        ("127.0.0.256", False),
        ("127.0.1", False),
    ),
)


@cache
def meter() -> Meter:
    return Meter("llguidance", vocabulary())


@pytest.mark.parametrize("given", OWN, ids=range(len(OWN)))
def test_instances_of_many_forms_are_judged_rightly(given: Case) -> None:
    found = meter().measure(given)
    assert found["outcome"] == "accepted", found
    labels = [label for _, label in given.instances]
    assert (found["valid"], found["invalid"]) == (labels.count(True), labels.count(False))
    assert found["examples"] == []


@needs_bench
def test_a_small_sample() -> None:
    [row] = [r for r in summary([meter().measure(one) for one in sample(40)]) if r["split"] == ALL]
    assert (row["schemas"], row["under"], row["failed"]) == (40, 0, 0)
    assert row["over"] <= 1 and row["accepted"] >= 30


@pytest.mark.slow
@needs_bench
def test_a_large_sample() -> None:
    with Child("llguidance", vocabulary(), 60.0) as child:
        records = [child.measure(one) for one in sample(500)]
    [row] = [r for r in summary(records) if r["split"] == ALL]
    assert (row["under"], row["crash"], row["slow"]) == (0, 0, 0)
    assert row["failed"] <= 2  # the engine limits the states of patterns
    assert row["over"] <= 0.005 * row["schemas"]
    assert row["limit"] <= 0.002 * row["schemas"]
    assert row["declared"] >= 0.8


@pytest.mark.slow
@needs_bench
def test_moved_matchers_equal_new_ones() -> None:
    """Random walks over allowed tokens, with retreats of any length, on real schemas."""
    compiled, limits = compiler("llguidance", vocabulary()), GrammarLimits()
    draw, walked = Random(0), 0
    for given in sample(120):
        try:
            constraint = Constraint.json_schema(given.schema)
            limits.check(constraint)
            grammar = compiled(constraint)
        except OptionError:
            continue
        matcher, text = grammar.begin(), list[int]()
        for _ in range(24):
            if text and draw.random() < 0.35:
                count = draw.randint(1, len(text))
                matcher.retreat(count)
                del text[len(text) - count :]
            new = grammar.begin()
            assert new.advance(text) == len(text)
            allowed = matcher.allowed()
            assert (allowed == new.allowed()).all(), (given.key, text)
            assert matcher.accepting == new.accepting
            options = allowed.nonzero()[0].tolist()
            if options:
                text.append(draw.choice(options))
                assert matcher.advance(text[-1:]) == 1
        walked += 1
    assert walked >= 80
