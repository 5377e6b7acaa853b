"""Calls in answers of the server, streamed and not.

The model is too small to call functions, so its text is replaced.
"""

from typing import Any

import openai
import pytest

from outrider.server.tools.harmony import Harmony
from tests.server.setups import CHAT, QUICK, Running, Writes

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SIX_TOKENS: dict[str, Any] = {"logit_bias": {"3": 100}, "min_tokens": 6, "seed": 1}
BODY = QUICK | SIX_TOKENS | {"tools": [TOOL], "max_tokens": 40}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "Köln"}}\n</tool_call>'
CUT = CALL[: CALL.index("ln")]


def joined(chunks: list[Any]) -> dict[str, Any]:
    """The message that a client puts together, as an answer without stream has it."""
    found: dict[str, Any] = {"content": "", "calls": [], "finish_reason": None}
    for choice in (chunk["choices"][0] for chunk in chunks):
        found["content"] += choice["delta"].get("content") or ""
        found["finish_reason"] = choice["finish_reason"] or found["finish_reason"]
        for call in choice["delta"].get("tool_calls", []):
            if call["index"] == len(found["calls"]):
                assert call["id"] and call["type"] == "function"
                assert call["function"]["arguments"] == ""
                found["calls"].append([call["function"]["name"], ""])
            else:
                assert set(call) == {"index", "function"} and set(call["function"]) == {"arguments"}
                assert call["index"] == len(found["calls"]) - 1
                found["calls"][-1][1] += call["function"]["arguments"]
    return found


TEXTS = [
    ([CALL], "", [["f", '{"a": "Köln"}']], "tool_calls"),
    (
        ["I look. <too", CALL[4:38], CALL[38:50], CALL[50:], CALL],
        "I look.",
        [["f", '{"a": "Köln"}']] * 2,
        "tool_calls",
    ),
    (["Hm. ", CUT, "l"], "Hm.", [["f", '{"a": "Köl']], "length"),
    (
        ["<tool_call>{'name': 'f'}</tool_call>"],
        "<tool_call>{'name': 'f'}</tool_call>",
        [],
        "stop",
    ),
]


@pytest.mark.parametrize(("pieces", "content", "calls", "reason"), TEXTS)
def test_a_stream_and_a_whole_answer_have_the_same_calls(
    served: Running, writes: Writes, pieces: list[str], content: str, calls: Any, reason: str
) -> None:
    writes(*pieces)
    choice = served.post(CHAT, BODY).json["choices"][0]
    message = choice["message"]
    assert (message["content"] or "") == content
    found = [call["function"] for call in message.get("tool_calls", [])]
    assert [[one["name"], one["arguments"]] for one in found] == calls
    assert choice["finish_reason"] == reason
    writes(*pieces)
    chunks = served.post(CHAT, BODY | {"stream": True}).chunks
    assert joined(chunks) == {"content": content, "calls": calls, "finish_reason": reason}


def test_a_call_that_the_limit_cuts(served: Running, writes: Writes) -> None:
    writes(CALL)
    body = BODY | {"max_tokens": 4, "min_tokens": 4}
    choice = served.post(CHAT, body).json["choices"][0]
    assert choice["finish_reason"] == "length" and len(choice["message"]["tool_calls"]) == 1


def test_one_call_alone_if_calls_in_parallel_are_off(served: Running, writes: Writes) -> None:
    for stream in (False, True):
        writes(CALL, CUT, " and text")
        answer = served.post(CHAT, BODY | {"parallel_tool_calls": False, "stream": stream})
        if not stream:
            choice = answer.json["choices"][0]
            assert len(choice["message"]["tool_calls"]) == 1
            assert choice["finish_reason"] == "tool_calls"  # the broken call is not part of it
        else:
            assert joined(answer.chunks)["calls"] == [["f", '{"a": "Köln"}']]


RESPONSE: dict[str, Any] = {"model": "tiny", "input": "Hello", "max_output_tokens": 40}
RESPONSE |= {"tools": [{"type": "function", "name": "f", "parameters": {}}]}
MORE = {"extra_body": SIX_TOKENS}


@pytest.mark.parametrize(("pieces", "content", "calls", "reason"), TEXTS)
def test_calls_in_responses(
    client: openai.OpenAI,
    writes: Writes,
    pieces: list[str],
    content: str,
    calls: Any,
    reason: str,
) -> None:
    writes(*pieces)
    answer = client.responses.create(**RESPONSE, **MORE, include=["message.output_text.logprobs"])
    found = [item for item in answer.output if item.type == "function_call"]
    assert [[one.name, one.arguments] for one in found] == calls
    assert answer.output_text == content
    assert answer.status == ("incomplete" if reason == "length" else "completed")
    if found:
        assert found[-1].status == answer.status
    writes(*pieces)
    events = list(client.responses.create(**RESPONSE, **MORE, stream=True))
    deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert [[e.name, e.arguments] for e in done] == calls
    for event in done:
        assert event.arguments == "".join(d.delta for d in deltas if d.item_id == event.item_id)
    final = events[-1].response  # pyright: ignore
    assert [item.type for item in final.output] == [item.type for item in answer.output]
    assert [e.item.id for e in events if e.type == "response.output_item.done"] == [  # pyright: ignore
        item.id for item in final.output
    ]


def test_reasoning_and_text_of_responses_in_turn(
    client: openai.OpenAI, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reasoning after text is an item of its own."""
    kind = "outrider.server.tools.choice.parser_for"
    monkeypatch.setattr(kind, lambda tokenizer, given: Harmony)
    parts = ("commentary", "Plan."), ("analysis", "Hm."), ("final", "Yes.")
    texts = [f"<|channel|>{name}<|message|>{text}<|end|>" for name, text in parts]
    writes(*texts)
    answer = client.responses.create(**RESPONSE, **MORE)
    assert [item.type for item in answer.output] == ["message", "reasoning", "message"]
    assert answer.output_text == "Plan.\n\nYes."
