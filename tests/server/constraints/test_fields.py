"""From fields of requests to one constraint, or an error that names the field."""

from typing import Any

import pytest

from outrider.sampling.constraint import Constraint
from outrider.server.constraints.fields import Asked, asked_by
from outrider.server.errors import ApiError
from outrider.server.schema.base import parse
from outrider.server.schema.chat import ChatBody
from outrider.server.schema.completions import CompletionBody
from outrider.server.schema.messages import MessagesBody
from outrider.server.schema.responses import ResponsesBody
from outrider.server.schema.sampling import SamplingBody

HELLO = [{"role": "user", "content": "Hello"}]
BODIES: dict[type[SamplingBody], dict[str, Any]] = {
    ChatBody: {"model": "tiny", "messages": HELLO},
    CompletionBody: {"model": "tiny", "prompt": "Hello"},
    ResponsesBody: {"model": "tiny", "input": "Hello"},
    MessagesBody: {"model": "tiny", "messages": HELLO, "max_tokens": 9},
}
SCHEMA = {"type": "integer"}
NAMED = {"name": "n", "schema": SCHEMA, "strict": False}
INTEGER = Constraint.json_schema(SCHEMA)
OBJECT = Constraint.json_schema({"type": "object"})
LARK, GBNF = 'start: "a"', 'root ::= "a"'
TOOL = {"type": "function", "function": {"name": "f"}}


def asked(fields: dict[str, Any], kind: type[SamplingBody] = ChatBody) -> Asked | None:
    return asked_by(parse(kind, BODIES[kind] | fields))


@pytest.mark.parametrize(
    ("fields", "field", "constraint"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
            "response_format.json_schema.schema",
            INTEGER,
        ),
        ({"response_format": {"type": "json_object"}}, "response_format", OBJECT),
        ({"guided_json": SCHEMA}, "guided_json", INTEGER),
        ({"guided_json": '{"type": "integer"}'}, "guided_json", INTEGER),
        ({"guided_regex": "a+"}, "guided_regex", Constraint.regex("a+")),
        ({"guided_choice": ["a", "b"]}, "guided_choice", Constraint.choice(["a", "b"])),
        ({"guided_grammar": LARK}, "guided_grammar", Constraint(kind="lark", source=LARK)),
        ({"guided_grammar": GBNF}, "guided_grammar", Constraint(kind="gbnf", source=GBNF)),
        (
            {"guided_grammar": f"{LARK}\n\n"},
            "guided_grammar",
            Constraint(kind="lark", source=f"{LARK}\n\n"),
        ),
        (
            {"guided_grammar": f'a ::= "b"\n \t{GBNF}'},
            "guided_grammar",
            Constraint(kind="gbnf", source=f'a ::= "b"\n \t{GBNF}'),
        ),
        ({"grammar": GBNF}, "grammar", Constraint(kind="gbnf", source=GBNF)),
        ({"json_schema": SCHEMA}, "json_schema", INTEGER),
        (
            {"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"},
            "guided_json",
            Constraint.json_schema(SCHEMA, whitespace=" ?"),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json", INTEGER),
        (
            {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}},
            "structured_outputs.json_object",
            Constraint.json_schema({"type": "object"}, whitespace="compact"),
        ),
        (
            {"structured_outputs": {"choice": ["a"]}},
            "structured_outputs.choice",
            Constraint.choice(["a"]),
        ),
    ],
)
def test_a_field_becomes_a_constraint(
    fields: dict[str, Any], field: str, constraint: Constraint
) -> None:
    assert asked(fields) == Asked(constraint, field)


def test_each_endpoint_has_its_form() -> None:
    chat = {"response_format": {"type": "json_schema", "json_schema": NAMED}}
    assert asked(chat, CompletionBody) == asked(chat)
    form: dict[str, Any] = {"type": "json_schema", **NAMED}
    assert asked({"text": {"format": form}}, ResponsesBody) == Asked(INTEGER, "text.format.schema")
    assert asked({"text": {"format": {"type": "json_object"}}}, ResponsesBody) == Asked(
        OBJECT, "text.format"
    )
    own = {"type": "json_schema", "schema": SCHEMA}
    found = asked({"output_config": {"format": own}}, MessagesBody)
    assert found == Asked(INTEGER, "output_config.format.schema")
    assert asked({"output_format": own}, MessagesBody) == Asked(INTEGER, "output_format.schema")


@pytest.mark.parametrize("kind", BODIES)
def test_a_text_is_free_without_them(kind: type[SamplingBody]) -> None:
    assert asked({}, kind) is None
    assert asked({"structured_outputs": {}, "guided_decoding_backend": "auto"}, kind) is None


def test_the_form_of_a_text_is_none() -> None:
    assert asked({"response_format": {"type": "text"}, "tools": [TOOL]}) is None
    assert asked({"text": {"format": {"type": "text"}}}, ResponsesBody) is None
    assert asked({"guided_json": SCHEMA, "tools": [TOOL], "tool_choice": "none"}) is not None


@pytest.mark.parametrize(
    ("fields", "param", "code", "words"),
    [
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex", "invalid_value", "together"),
        (
            {"response_format": {"type": "json_object"}, "grammar": GBNF},
            "grammar",
            "invalid_value",
            "response_format and grammar are given together",
        ),
        (
            {"structured_outputs": {"json": SCHEMA, "regex": "a"}},
            "structured_outputs.regex",
            "invalid_value",
            "structured_outputs.json and structured_outputs.regex",
        ),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            "structured_outputs.structural_tag",
            "unsupported_field",
            "give json",
        ),
        (
            {"response_format": {"type": "structural_tag"}},
            "response_format.type",
            "invalid_value",
            "'structural_tag'",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format",
            "missing_field",
            "response_format.json_schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
            "missing_field",
            "schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED | {"schema": []}}},
            "response_format.json_schema.schema",
            "invalid_value",
            "dictionary",
        ),
        ({"guided_json": "{"}, "guided_json", "invalid_schema", "no JSON"),
        ({"guided_json": ""}, "guided_json", "invalid_schema", "no JSON"),
        ({"guided_choice": []}, "guided_choice", "invalid_value", "at least 1"),
        ({"guided_regex": " "}, "guided_regex", "invalid_schema", "Give a text"),
        ({"guided_decoding_backend": "mine"}, "guided_decoding_backend", "invalid_value", "auto"),
        (
            {"guided_whitespace_pattern": " "},
            "guided_whitespace_pattern",
            "invalid_value",
            "without a JSON schema",
        ),
        (
            {"guided_regex": "a", "guided_whitespace_pattern": " "},
            "guided_whitespace_pattern",
            "invalid_schema",
            "Leave it out",
        ),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "invalid_value", "ends"),
        ({"guided_json": SCHEMA, "tools": [TOOL]}, "guided_json", "unsupported_field", "tools"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, code: str, words: str) -> None:
    with pytest.raises(ApiError) as raised:
        asked(fields)
    error = raised.value
    assert (error.status, error.param, error.code) == (400, param, code), error.message
    assert words in error.message


def test_the_form_of_a_long_grammar_is_found_in_one_pass() -> None:
    """With the square of the length, this takes hours."""
    source = "\n" * 1_000_000 + LARK
    found = asked({"guided_grammar": source})
    assert found is not None and found.constraint == Constraint(kind="lark", source=source)
