"""Constraints as users give them, and every way in which they can be wrong."""

import json
import sys
from collections.abc import Callable

import pytest
from pydantic import BaseModel

from outrider.constraints import check_constraint
from outrider.constraints.validation import validated
from outrider.core.errors import MissingExtraError, OptionError
from outrider.sampling import SamplingParams
from outrider.sampling.constraint import SUGAR, Constraint, Unsupported

OBJECT = {"type": "object"}
OVERLAP = {"oneOf": [{"type": "number"}, {"type": "integer"}]}
NEGATED = {"type": "string", "not": {"minLength": 5}}


class Person(BaseModel):
    name: str
    age: int | None = None


@pytest.mark.parametrize(
    ("options", "kind", "source"),
    [
        ({"json": True}, "json", '{"type": "object"}'),
        ({"json_schema": OBJECT}, "json", '{"type": "object"}'),
        ({"json_schema": ' {"type":"object"} '}, "json", '{"type": "object"}'),
        ({"json_schema": True}, "json", "{}"),
        ({"json_schema": Person}, "json", json.dumps(Person.model_json_schema())),
        ({"regex": "a+"}, "regex", "a+"),
        ({"choice": ["yes", 'no"', "yes"]}, "lark", 'start: "yes" | "no\\""\n'),
        ({"grammar": 'start: "a"'}, "lark", 'start: "a"'),
        ({"gbnf": 'root ::= "a"'}, "gbnf", 'root ::= "a"'),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_short_form_is_a_constraint(
    options: dict[str, object], kind: str, source: str
) -> None:
    found = Constraint.of(options)
    assert found is not None
    assert (found.kind, found.source, found.enforced) == (kind, source, True)
    assert Constraint.of({"constraint": found}) is found
    assert SamplingParams.of(**options).constraint == found
    check_constraint(found)


def test_nothing_given_is_no_constraint() -> None:
    assert Constraint.of(dict.fromkeys((*SUGAR, "constraint"))) is None
    assert Constraint.of({"json": False, "temperature": 1.0}) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json": True, "regex": "a"}, "json and regex are given together. Give one constraint"),
        ({"choice": ["a"], "constraint": Constraint.regex("a")}, "choice and constraint are given"),
        ({"constraint": "a"}, "constraint is 'a'. Give a Constraint"),
        ({"json": "yes"}, "json is 'yes'. Give true, or json_schema="),
        ({"json_schema": "{"}, "the JSON schema is no JSON: "),
        ({"json_schema": "[1]"}, "the JSON schema is [1]. Give an object, its text, or a model"),
        ({"json_schema": 3}, "the JSON schema is 3. Give an object"),
        ({"json_schema": {"enum": [object]}}, "the JSON schema is no JSON: Object of type type"),
        ({"regex": 3}, "regex is 3. Give a text"),
        ({"regex": ""}, "the regex constraint is ''. Give a text"),
        ({"grammar": ["a"]}, "grammar is ['a']. Give a text"),
        ({"gbnf": "  "}, "the gbnf constraint is '  '. Give a text"),
        ({"choice": []}, "choice is []. Give texts, such as"),
        ({"choice": "yes"}, "choice is 'yes'. Give texts, such as"),
        ({"choice": ["yes", ""]}, "choice is ['yes', '']. Give texts, such as"),
        ({"choice": 7}, "choice is 7. Give texts, such as"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        SamplingParams.of(**options)
    assert str(raised.value).startswith(message)


def test_a_grammar_says_where_the_text_ends() -> None:
    with pytest.raises(OptionError, match="ignore_eos is set, but the grammar"):
        SamplingParams.of(regex="a", ignore_eos=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "yaml"}, "unknown kind of constraint 'yaml'. Give json, regex, lark or gbnf"),
        ({"source": None}, "the json constraint is None. Give a text"),
        ({"unsupported": "ignore"}, "unsupported is 'ignore'. Give one of refuse, coerce, lenient"),
        ({"whitespace": ""}, "whitespace is ''. Give compact, flexible, or a regular expression"),
        ({"kind": "regex", "whitespace": "compact"}, "whitespace and unsupported are options of"),
        ({"kind": "lark", "unsupported": "coerce"}, "whitespace and unsupported are options of"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_fields_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        Constraint(**{"kind": "json", "source": "{}"} | fields)  # pyright: ignore[reportArgumentType]
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constraint.regex("[a"), "the regex constraint is refused: unclosed character"),
        (lambda: Constraint.regex("(?=a)b"), "the regex constraint is refused: look-around"),
        (lambda: Constraint(kind="lark", source="start: item"), "unknown name: "),
        (lambda: Constraint(kind="lark", source='item: "a"'), "no start rule found"),
        (lambda: Constraint(kind="gbnf", source="root ::= x"), "the GBNF grammar is refused: "),
        (lambda: Constraint(kind="gbnf", source="root"), "the GBNF grammar is refused: "),
        (lambda: Constraint.json_schema({"type": 12}), "type must be a string"),
        (lambda: Constraint.json_schema(OVERLAP), "unsupported='coerce' reads it as anyOf"),
        (lambda: Constraint.json_schema(NEGATED), "unsupported='lenient' ignores what"),
        (lambda: Constraint.json_schema({"format": "a", "type": "string"}), "Unknown format: a"),
        (lambda: Constraint.json_schema({"$ref": "#/x"}), "Pointer '/x' does not exist"),
        (lambda: Constraint.json_schema(OBJECT, whitespace="["), "unclosed character class"),
        (
            lambda: Constraint.json_schema({"type": "strin"}, unsupported="lenient"),
            "the JSON schema is not valid: ",
        ),
        (
            lambda: Constraint.json_schema(
                {"$id": "https://a.example/b", "$ref": "c.json"}, unsupported="lenient"
            ),
            "https://a.example/c.json is not fetched",
        ),
    ],
)
def test_what_cannot_be_enforced_is_refused_without_a_model(
    make: Callable[[], Constraint], message: str
) -> None:
    with pytest.raises(OptionError) as raised:
        check_constraint(make())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("whitespace", ["compact", "flexible", " ?"])
def test_white_space_may_be_chosen(whitespace: str) -> None:
    check_constraint(Constraint.json_schema(OBJECT, whitespace=whitespace))


@pytest.mark.parametrize(
    ("schema", "unsupported", "text", "valid"),
    [
        (OVERLAP, "coerce", "1.5", True),
        (OVERLAP, "coerce", "1", False),
        (NEGATED, "lenient", '"four"', True),
        (NEGATED, "lenient", '"fourteen"', False),
        (NEGATED, "lenient", '"unfin', False),
        ({"format": "date", "type": "string"}, "lenient", '"today"', False),
        ({"type": "array"}, "lenient", "[" * 100_000, False),
    ],
)
def test_texts_of_schemas_that_are_enforced_in_part_are_checked(
    schema: dict[str, object], unsupported: Unsupported, text: str, valid: bool
) -> None:
    constraint = Constraint.json_schema(schema, unsupported=unsupported)
    assert validated(constraint, text) is valid


def test_other_texts_are_not_checked() -> None:
    assert validated(None, "x") is None
    assert validated(Constraint.json_schema(OBJECT), "x") is None


def test_without_the_validator_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    constraint = Constraint.json_schema({"title": "not seen before"}, unsupported="coerce")
    with pytest.raises(MissingExtraError, match=r'pip install "outrider\[constraints\]"'):
        check_constraint(constraint)
    check_constraint(Constraint.json_schema({"title": "not seen before"}))
