"""`/v1/messages` and `/v1/messages/count_tokens`: shapes, blocks, events and errors."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from outrider.engine.generator import Generator
from outrider.engine.serving.settings import ServingSettings
from outrider.server.keys import load_keys
from outrider.server.prompts.turns import chat_messages
from outrider.server.schema.messages import CountBody
from outrider.server.tools.reasoning import TAGS
from tests.server.setups import CHAT, HELLO, Answer, Running, Writes, running

PATH = "/v1/messages"
COUNT = f"{PATH}/count_tokens"
BODY: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "seed": 1}
TOOL = {"name": "weather", "description": "Tells it.", "input_schema": {"type": "object"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'


def events(answer: Answer) -> list[dict[str, Any]]:
    """The events of a stream; each has its name twice."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    found: list[dict[str, Any]] = []
    for frame in answer.frames:
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def assembled(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events of a stream make."""
    begin, ping, *middle, delta, stop = events
    assert (begin["type"], ping["type"]) == ("message_start", "ping")
    assert (delta["type"], stop) == ("message_delta", {"type": "message_stop"})
    message = begin["message"] | delta["delta"] | {"usage": delta["usage"]}
    blocks, arguments = message["content"], ""
    for event in middle:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
            arguments = ""
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            delta = event["delta"]
            if delta["type"] == "input_json_delta":
                arguments += delta["partial_json"]
            else:
                kind = delta["type"].removesuffix("_delta")
                blocks[-1][kind] += delta[kind]
        else:
            assert event == {"type": "content_block_stop", "index": len(blocks) - 1}
            blocks[-1] |= {"input": json.loads(arguments)} if arguments else {}
    starts = sum(event["type"] == "content_block_start" for event in middle)
    assert starts == sum(event["type"] == "content_block_stop" for event in middle)
    return message


def told(message: dict[str, Any]) -> dict[str, Any]:
    """What is equal in a stream and in a whole answer."""
    usage = message["usage"]
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    blocks = [{k: v for k, v in block.items() if k != "id"} for block in message["content"]]
    names = ("type", "role", "model", "stop_reason", "stop_sequence")
    counts = {"prompt": prompt, "output": usage["output_tokens"]}
    return {name: message[name] for name in names} | {"content": blocks} | counts


def error(answer: Answer) -> dict[str, str]:
    """The error, whose shape is checked."""
    assert set(answer.json) == {"type", "error"} and answer.json["type"] == "error"
    found = answer.json["error"]
    assert set(found) == {"type", "message"} and "\n" not in found["message"]
    assert answer.headers["x-request-id"]
    return found


def test_the_text_is_that_of_the_library(served: Running, generator: Generator) -> None:
    system = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    body = BODY | {"messages": blocks, "system": system, "max_tokens": 12}
    answer = served.post(PATH, body).json
    chat = [{"role": "system", "content": "Be brief."}, *HELLO]
    expected = generator.generate(chat, seed=1, max_new_tokens=12, temperature=1.0)
    assert answer["content"] == [{"type": "text", "text": expected.text}]
    assert answer["id"].startswith("msg-") and answer["type"] == "message"
    reason = "max_tokens" if expected.finish_reason == "length" else "end_turn"
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, None)
    found = told(answer)
    assert (found["prompt"], found["output"]) == (expected.prompt_tokens, len(expected.token_ids))
    assert served.post(COUNT, body).json == {"input_tokens": expected.prompt_tokens}
    assert told(assembled(events(served.post(PATH, body | {"stream": True})))) == found


def test_a_stop_sequence_is_named(served: Running, generator: Generator) -> None:
    text = generator.generate(HELLO, seed=1, max_new_tokens=8, temperature=1.0).text
    stop = text.split()[1]
    answer = served.post(PATH, BODY | {"stop_sequences": ["?!", stop]}).json
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", stop)
    assert answer["content"][0]["text"] == text.partition(stop)[0]


def test_an_answer_at_the_end_is_continued(served: Running) -> None:
    prefilled = [*HELLO, {"role": "assistant", "content": "It is a"}]
    body = BODY | {"messages": prefilled, "temperature": 0, "ignore_eos": True}
    answer = served.post(PATH, body).json["content"][0]["text"]
    chat = served.post(CHAT, body | {"continue_final_message": True}).json
    assert answer == chat["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_blocks(served: Running, writes: Writes, stream: bool) -> None:
    writes("I look.\n<tool_", CALL[6:20], CALL[20:], CALL)
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    body = BODY | {"tools": [TOOL], "tool_choice": choice, "stream": stream}
    answer = served.post(PATH, body | {"stop_sequences": ["?"], "ignore_eos": True})
    message = assembled(events(answer)) if stream else answer.json
    text, call = message["content"]
    assert text == {"type": "text", "text": "I look."}
    assert call.pop("id") and call == {
        "type": "tool_use",
        "name": "weather",
        "input": {"city": "Köln"},
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_keeps_its_arguments_as_text(
    served: Running, writes: Writes, stream: bool
) -> None:
    cut = CALL[: CALL.index("ln")]
    writes(cut[:40], cut[40:])
    answer = served.post(PATH, BODY | {"tools": [TOOL], "stream": stream})
    if stream:
        found = [e["delta"] for e in events(answer) if e["type"] == "content_block_delta"]
        assert "".join(delta["partial_json"] for delta in found) == '{"city": "Kö'
        return
    [call] = answer.json["content"]
    assert call["type"] == "tool_use" and call["input"] == {"arguments": '{"city": "Kö'}
    assert answer.json["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_a_block(
    served: Running, writes: Writes, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("outrider.server.tools.choice.tags_of", lambda tokenizer: TAGS[0])
    writes("<think>Hm", "m.</think>\nYes.")
    answer = served.post(PATH, BODY | {"stream": stream, "ignore_eos": True})
    message = assembled(events(answer)) if stream else answer.json
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hmm.", "signature": ""},
        {"type": "text", "text": "Yes."},
    ]
    assert "thinking_tokens" in message["usage"]["output_tokens_details"]


def test_blocks_as_messages_of_a_chat() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBO"}
    image = {"type": "image", "source": source}
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Köln"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": True}
    turns = [
        {"role": "user", "content": "A"},
        {"role": "user", "content": [{"type": "text", "text": "B"}, image]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, use]},
        {"role": "user", "content": [result | {"content": "off"}, {"type": "text", "text": "C"}]},
    ]
    found = chat_messages(CountBody.model_validate({"model": "m", "messages": turns}))
    assert [message.role for message in found] == ["user", "assistant", "tool", "user"]
    user, assistant, tool, _ = (m.model_dump(exclude_unset=True) for m in found)
    assert [part.get("text") for part in user["content"]] == ["A", "\n\n", "B", None]
    assert user["content"][-1]["image_url"] == "data:image/png;base64,iVBO"
    assert assistant["reasoning_content"] == "Hm." and assistant["content"] == []
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"city": "Köln"}
    assert tool["tool_call_id"] == "t1"
    assert "".join(part["text"] for part in tool["content"]) == "Error: off"


def blocks(*blocks: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"messages": [*HELLO, {"role": role, "content": [*blocks]}]}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
        ({"output_config": {"format": {}}}, "output_config.format"),
        ({"n": 2}, "n is not"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"stop_sequence": ["a"]}, "stop_sequences"),
        (blocks({"type": "document"}), "messages.1.content.0.type"),
        (blocks({"type": "text"}), "messages.1.content.0.text"),
        (blocks({"type": "image"}), "messages.1.content.0.source"),
        (blocks({"type": "thinking", "thinking": "a"}), "messages.1.content.0"),
        (blocks({"type": "tool_result"}), "messages.1.content.0.tool_use_id"),
        (
            blocks({"type": "tool_use", "id": "a", "name": "f", "input": {}}, role="assistant"),
            "use",
        ),
    ],
)
def test_a_wrong_field_is_named(served: Running, fields: dict[str, Any], name: str) -> None:
    answer = served.post(PATH, BODY | fields)
    assert answer.status == 400
    assert error(answer)["type"] == "invalid_request_error" and name in error(answer)["message"]


def test_errors_have_the_shape_of_the_interface(served: Running) -> None:
    cases: list[tuple[Callable[[], Answer], int, str]] = [
        (lambda: served.post(PATH, b"{"), 400, "invalid_request_error"),
        (lambda: served.post(COUNT, BODY | {"model": "opus"}), 404, "not_found_error"),
        (lambda: served.get(PATH), 405, "invalid_request_error"),
        (lambda: served.post(f"{PATH}/batches", {}), 404, "not_found_error"),
    ]
    for ask, status, kind in cases:
        answer = ask()
        assert (answer.status, error(answer)["type"]) == (status, kind)
    long = [{"role": "user", "content": "word " * 3000}]
    assert (
        "tokens" in error(served.post(PATH, BODY | {"messages": long, "stream": True}))["message"]
    )


def test_what_has_no_effect_is_named(served: Running) -> None:
    text = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    body = BODY | {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [{"role": "user", "content": [text]}],
    }
    answer = served.post(PATH, body | {"metadata": {"user_id": "ann"}})
    assert answer.status == 200
    assert answer.headers["x-outrider-ignored-fields"] == "thinking.budget_tokens, thinking"
    off = served.post(PATH, BODY | {"thinking": {"type": "disabled"}})
    assert "x-outrider-ignored-fields" not in off.headers


@pytest.fixture(scope="module")
def closed(generator: Generator) -> Iterator[Running]:
    """A server with a key and a small window."""
    keys = load_keys(None, {"OUTRIDER_API_KEYS": "ann=secret"})
    small = ServingSettings(cache_tokens=256)
    with running(generator, keys=keys, engine_settings=small) as found:
        yield found


def test_the_key_may_be_in_either_header(closed: Running) -> None:
    refused = closed.post(COUNT, BODY, x_api_key="wrong")
    assert refused.status == 401 and error(refused)["type"] == "authentication_error"
    body = {"model": "tiny", "messages": HELLO}
    assert closed.post(COUNT, body, x_api_key="secret", anthropic_version="2023-06-01").json
    assert closed.post(COUNT, body, authorization="Bearer secret").status == 200


def test_an_answer_that_fills_the_window_says_so(closed: Running) -> None:
    long = [{"role": "user", "content": "word " * (closed.context.window - 40)}]
    body = BODY | {"messages": long, "max_tokens": 5000, "ignore_eos": True}
    answer = closed.post(PATH, body, x_api_key="secret").json
    assert answer["stop_reason"] == "model_context_window_exceeded"
