"""`/v1/responses` through the official client."""

from typing import Any

import openai
import pytest

from outrider.engine.generator import Generator
from tests.server.setups import CHAT, HELLO, Running, Writes

BASE: dict[str, Any] = {"model": "tiny", "input": "Hello", "max_output_tokens": 12}
SEED = {"extra_body": {"seed": 3}}


def test_the_text_is_that_of_the_library(client: openai.OpenAI, generator: Generator) -> None:
    answer = client.responses.create(**BASE, **SEED)
    expected = generator.generate(HELLO, seed=3, max_new_tokens=12, temperature=1.0)
    assert answer.output_text == expected.text
    assert answer.object == "response" and answer.id.startswith("resp-") and answer.store is False
    assert answer.usage is not None and answer.usage.output_tokens == expected.completion_tokens
    cut = expected.finish_reason == "length"
    assert answer.status == ("incomplete" if cut else "completed")
    if cut:
        assert answer.incomplete_details is not None
        assert answer.incomplete_details.reason == "max_output_tokens"
    messages = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    again = client.responses.create(**BASE | {"input": messages}, **SEED)
    assert again.output_text == expected.text


def test_instructions_are_the_system_message(client: openai.OpenAI, generator: Generator) -> None:
    answer = client.responses.create(**BASE, instructions="Be brief.", **SEED)
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    expected = generator.generate(messages, seed=3, max_new_tokens=12, temperature=1.0)
    assert answer.output_text == expected.text and answer.instructions == "Be brief."


def test_events_of_a_stream(client: openai.OpenAI) -> None:
    whole = client.responses.create(**BASE, **SEED)
    events = list(client.responses.create(**BASE, **SEED, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    names = [event.type for event in events if event.type != "response.output_text.delta"]
    assert names == [
        *("response.created", "response.in_progress", "response.output_item.added"),
        *("response.content_part.added", "response.output_text.done"),
        *("response.content_part.done", "response.output_item.done"),
        f"response.{whole.status}",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    final = events[-1]
    assert final.type in ("response.completed", "response.incomplete")
    assert final.response.output_text == whole.output_text
    assert final.response.usage == whole.usage.model_copy(  # pyright: ignore
        update={"input_tokens_details": final.response.usage.input_tokens_details}  # pyright: ignore
    )


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        **BASE, **SEED, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    part = answer.output[0].content[0]  # pyright: ignore
    assert len(part.logprobs) == answer.usage.output_tokens  # pyright: ignore
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)  # pyright: ignore


def test_calls_are_items(served: Running, client: openai.OpenAI, writes: Writes) -> None:
    text = 'I look. <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    writes(text)
    answer = client.responses.create(**BASE, tools=[tool])  # pyright: ignore
    assert [item.type for item in answer.output] == ["message", "function_call"]
    assert answer.output[1].arguments == '{"a": 1}'  # pyright: ignore
    writes(text)
    events = list(client.responses.create(**BASE, tools=[tool], stream=True))  # pyright: ignore
    names = [event.type for event in events]
    assert "response.function_call_arguments.delta" in names
    assert names.index("response.output_text.done") < names.index(
        "response.function_call_arguments.done"
    )


def test_calls_of_earlier_turns_are_read(served: Running) -> None:
    """As by a chat of the same messages; reasoning of earlier turns is left out."""
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "r1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    function = {"name": "f", "arguments": "{}"}
    messages = [
        items[0],
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    answer = served.post("/v1/responses", BASE | {"input": items, "seed": 3}).json
    chat = {"model": "tiny", "messages": messages, "max_tokens": 12, "seed": 3}
    expected = served.post(CHAT, chat).json
    [item] = answer["output"]
    [part] = item["content"]
    assert (item["type"], item["role"], part["type"]) == ("message", "assistant", "output_text")
    assert part["text"] == expected["choices"][0]["message"]["content"]
    assert answer["usage"]["input_tokens"] == expected["usage"]["prompt_tokens"]
    shorter = served.post(CHAT, chat | {"messages": messages[:1]}).json
    assert answer["usage"]["input_tokens"] > shorter["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp-1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"n": 2}, "n"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "custom", "name": "f"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input.0"),
        ({"input": [{"role": "user"}]}, "input.0"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input.0"),
        ({"input": "word " * 3000}, "input"),
    ],
)
def test_wrong_fields_are_named(served: Running, fields: dict[str, Any], param: str) -> None:
    answer = served.post("/v1/responses", BASE | fields)
    assert answer.status == 400
    assert answer.error["param"] == param, answer.error
