"""Calls that must happen, through the official client, on a model that was not trained for it."""

import json
import re
from typing import Any

import jsonschema_rs
import openai
import pytest

from tests.server.setups import CHAT, HELLO, QUICK, Running

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TIME = {"type": "object", "properties": {"zone": {"enum": ["utc", "cet"]}}, "required": ["zone"]}
TIME |= {"additionalProperties": False}
SCHEMAS = {"weather": CITY, "time": TIME}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
FLAT: list[Any] = [
    {"type": "function", "name": name, "parameters": schema, "strict": True}
    for name, schema in SCHEMAS.items()
]
BASE: dict[str, Any] = {"model": "tiny", "messages": HELLO, "tools": TOOLS, "max_tokens": 200}


def asked(**more: Any) -> dict[str, Any]:
    """A request with both tools."""
    return BASE | more


NAMED = {"type": "function", "function": {"name": "time"}}


def is_valid(name: str, arguments: str) -> bool:
    return jsonschema_rs.is_valid(SCHEMAS[name], json.loads(arguments))


def test_a_required_call_parses_and_validates(client: openai.OpenAI) -> None:
    """At temperature 1, with and without drafts: the same valid calls."""
    for seed in range(4):
        found = []
        for mode in ("exact", "none"):
            extra = {"speculation": {"mode": mode}}
            answer = client.chat.completions.create(
                **BASE,
                tool_choice="required",
                seed=seed,
                parallel_tool_calls=False,
                extra_body=extra,
            )
            [choice] = answer.choices
            assert choice.finish_reason == "tool_calls" and choice.message.content is None
            [call] = choice.message.tool_calls or []
            assert call.type == "function"
            assert is_valid(call.function.name, call.function.arguments)
            found.append((call.function.name, call.function.arguments))
        assert found[0] == found[1]


def test_a_named_call_ends_with_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**BASE, tool_choice=NAMED, seed=1)  # pyright: ignore
    [choice] = answer.choices
    [call] = choice.message.tool_calls or []
    assert choice.finish_reason == "stop" and call.type == "function"
    assert call.function.name == "time" and is_valid("time", call.function.arguments)


def test_a_call_that_is_cut_is_of_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**asked(max_tokens=5), tool_choice="required", seed=1)
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_of_a_required_call(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {"tool_choice": "required", "seed": 2, "parallel_tool_calls": False}
    [whole] = client.chat.completions.create(**BASE, **how).choices[0].message.tool_calls or []
    name, arguments, reason = "", "", None
    for chunk in client.chat.completions.create(**BASE, **how, stream=True):
        [choice] = chunk.choices
        assert not choice.delta.content
        for call in choice.delta.tool_calls or []:
            assert call.function is not None and call.index == 0
            name += call.function.name or ""
            arguments += call.function.arguments or ""
        reason = choice.finish_reason or reason
    assert whole.type == "function" and reason == "tool_calls"
    assert (name, arguments) == (whole.function.name, whole.function.arguments)


def test_allowed_tools(client: openai.OpenAI) -> None:
    allowed = {"mode": "required", "tools": [NAMED]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": allowed}
    for seed in range(2):
        answer = client.chat.completions.create(
            **BASE, tool_choice=choice, parallel_tool_calls=False, seed=seed
        )
        [call] = answer.choices[0].message.tool_calls or []
        assert call.type == "function" and call.function.name == "time"


def test_strict_tools_leave_the_text_free(client: openai.OpenAI) -> None:
    """The text without a call is the text without the grammar."""
    strict = [{**t, "function": t["function"] | {"strict": True}} for t in TOOLS]
    body = asked(max_tokens=24, seed=5)
    free = client.chat.completions.create(**body)
    bound = client.chat.completions.create(**asked(max_tokens=24, seed=5, tools=strict))
    assert bound.choices[0].message.content == free.choices[0].message.content


def test_responses(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {
        "model": "tiny",
        "input": "Hello",
        "tools": FLAT,
        "tool_choice": "required",
    }
    how |= {"parallel_tool_calls": False, "max_output_tokens": 200, "extra_body": {"seed": 3}}
    answer = client.responses.create(**how)
    [item] = answer.output
    assert item.type == "function_call" and item.status == "completed"
    assert is_valid(item.name, item.arguments)
    *_, last = client.responses.create(**how, stream=True)
    assert last.type == "response.completed"
    [again] = last.response.output
    assert again.type == "function_call" and again.arguments == item.arguments


def test_messages(served: Running) -> None:
    tools = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
    body = {"model": "tiny", "max_tokens": 200, "messages": HELLO, "tools": tools}
    for choice in ({"type": "any"}, {"type": "tool", "name": "time"}):
        chosen = choice | {"disable_parallel_tool_use": True}
        answer = served.post("/v1/messages", body | {"tool_choice": chosen}).json
        [block] = answer["content"]
        assert answer["stop_reason"] == "tool_use" and block["type"] == "tool_use"
        assert jsonschema_rs.is_valid(SCHEMAS[block["name"]], block["input"])
        assert block["name"] == "time" or choice["type"] == "any"


LARK = 'start: "SELECT " NAME\nNAME: /[a-z]{1,5}/\n'


def custom(form: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": "sql", "description": "Runs SQL.", "format": form}}


@pytest.mark.parametrize("choice", ["required", {"type": "custom", "custom": {"name": "sql"}}])
def test_a_custom_tool_gets_text_of_its_grammar(client: openai.OpenAI, choice: Any) -> None:
    tool = custom({"type": "grammar", "grammar": {"syntax": "lark", "definition": LARK}})
    body = asked(tools=[tool], tool_choice=choice, seed=1)
    [call] = client.chat.completions.create(**body).choices[0].message.tool_calls or []
    assert call.type == "custom" and call.custom.name == "sql"
    assert re.fullmatch(r"SELECT [a-z]{1,5}", call.custom.input)
    written = ""
    for chunk in client.chat.completions.create(**body, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            own: Any = delta.model_dump().get("custom") or {}
            written += own.get("input") or ""
    assert written == call.custom.input
    again: list[Any] = [*HELLO, {"role": "assistant", "tool_calls": [call.model_dump()]}]
    again += [{"role": "tool", "tool_call_id": call.id, "content": "3 rows"}]
    more = client.chat.completions.create(**asked(tools=[tool], messages=again, tool_choice="none"))
    assert more.choices[0].message.tool_calls is None


def test_a_custom_tool_in_responses(client: openai.OpenAI) -> None:
    form = {"type": "grammar", "syntax": "regex", "definition": "[0-9]{3}"}
    tool: Any = {"type": "custom", "name": "dial", "format": form}
    how: dict[str, Any] = {"model": "tiny", "input": "Hello", "tools": [tool]}
    how |= {"tool_choice": {"type": "custom", "name": "dial"}, "extra_body": {"seed": 1}}
    [item] = client.responses.create(**how).output
    assert item.type == "custom_tool_call" and len(item.input) == 3 and item.input.isdigit()
    events = list(client.responses.create(**how, stream=True))
    deltas = [e.delta for e in events if e.type == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == item.input


def test_a_custom_tool_of_any_text(client: openai.OpenAI) -> None:
    tools = [custom({"type": "text"})]
    body = asked(tools=tools, tool_choice="required", max_tokens=8)
    [choice] = client.chat.completions.create(**body, seed=1).choices
    [call] = choice.message.tool_calls or []
    assert call.type == "custom" and call.custom.input and choice.message.content is None


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "weather"}}}, "tool_choice"),
        ({"tools": [{**TOOLS[0], "custom": {"name": "other"}}]}, "tools"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "tools": ["time"]}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [{"type": []}]}}, "tool_choice"),
        ({"tools": [custom({"type": "text"})]}, "tools"),
        ({"tools": [custom({"type": "grammar"})], "tool_choice": "required"}, "tools"),
        ({"tools": [*TOOLS, TOOLS[0]], "tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_what_cannot_be_done_names_the_field(
    served: Running, more: dict[str, Any], field: str
) -> None:
    answer = served.post(CHAT, QUICK | {"tools": TOOLS} | more)
    assert answer.status == 400 and answer.error["param"] == field, answer.body


def test_grammars_of_calls_are_examined_before_the_engine_has_them(served: Running) -> None:
    """A strict schema, and the grammar of a custom tool, that the engine of grammars refuses."""
    function = {"name": "a", "strict": True, "parameters": {"type": "object", "not": {}}}
    body = asked(tools=[{"type": "function", "function": function}], tool_choice="required")
    refused = served.post(CHAT, body)
    assert refused.status == 400, refused.body
    assert (refused.error["code"], refused.error["param"]) == ("invalid_schema", "tools")
    form = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a"}}
    wrong = {"type": "custom", "custom": {"name": "a", "format": form}}
    refused = served.post(CHAT, asked(tools=[wrong], tool_choice="required"))
    assert refused.status == 400, refused.body
    assert (refused.error["code"], refused.error["param"]) == ("invalid_schema", "tools")


def test_a_custom_tool_may_have_the_name_of_a_function(served: Running) -> None:
    both = [TOOLS[0], {"type": "custom", "custom": {"name": "weather"}}]
    named = {"type": "function", "function": {"name": "weather"}}
    answer = served.post(CHAT, asked(tools=both, tool_choice=named, seed=1))
    assert answer.status == 200, answer.body
    [call] = answer.json["choices"][0]["message"]["tool_calls"]
    assert call["type"] == "function" and is_valid("weather", call["function"]["arguments"])
    named = {"type": "custom", "custom": {"name": "weather"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    for choice in (named, allowed):
        answer = served.post(CHAT, asked(tools=both, tool_choice=choice, max_tokens=4))
        assert answer.status == 200, answer.body
        [call] = answer.json["choices"][0]["message"]["tool_calls"]
        assert call["type"] == "custom"
