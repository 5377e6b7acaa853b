"""Streams: what they hold, and the exact bytes of some."""

import re
from typing import Any

import openai
import pytest

from tests.server.setups import CHAT, COMPLETE, HELLO, QUICK, Running

STREAM = QUICK | {"stream": True}
USAGE = {"stream_options": {"include_usage": True}}


def masked(frames: list[str]) -> list[str]:
    """Frames without what differs from run to run."""
    found = []
    for frame in frames:
        frame = re.sub(r'"(id|system_fingerprint)":"[^"]*"', r'"\1":"-"', frame)
        frame = re.sub(r'"created":\d+', '"created":0', frame)
        found.append(re.sub(r',"metrics":.*', "", frame))
    return found


def joined(chunks: list[Any]) -> dict[int, dict[str, Any]]:
    """The choices that a client puts together."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            one = found.setdefault(choice["index"], {"text": "", "logprobs": [], "ids": []})
            one["text"] += choice["delta"].get("content") or ""
            one["logprobs"] += (choice["logprobs"] or {}).get("content", [])
            one["ids"] += choice.get("token_ids", [])
            one["finish"] = choice["finish_reason"] or one.get("finish")
    return found


def check_chunk(chunk: dict[str, Any], usage: bool) -> None:
    """Check the shape of one chunk of a chat."""
    head = {"id", "object", "created", "model", "system_fingerprint", "choices"}
    more = {"usage", "metrics", "timings", "prompt_token_ids", "prompt_logprobs"}
    assert head <= set(chunk) <= head | more
    assert chunk["object"] == "chat.completion.chunk" and isinstance(chunk["created"], int)
    assert ("usage" in chunk) is usage
    for choice in chunk["choices"]:
        keys = {"index", "delta", "logprobs", "finish_reason"}
        assert keys <= set(choice) <= keys | {"stop_reason", "token_ids", "sources"}
        assert set(choice["delta"]) <= {"role", "content", "tool_calls"}
        assert choice["finish_reason"] in (None, "stop", "length", "tool_calls")
        if "content" in choice["delta"] and "tool_calls" not in choice["delta"]:
            assert isinstance(choice["delta"]["content"], str)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 1}])
def test_a_stream_holds_what_the_whole_answer_holds(
    served: Running, usage: bool, n: int, more: dict[str, Any]
) -> None:
    more = more | {"n": n, "return_token_ids": True}
    answer = served.post(CHAT, STREAM | more | (USAGE if usage else {}))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    chunks, whole = answer.chunks, served.post(CHAT, QUICK | more).json
    for chunk in chunks:
        check_chunk(chunk, usage)
    found = joined(chunks)
    for choice in whole["choices"]:
        one = found[choice["index"]]
        assert one["text"] == choice["message"]["content"]
        assert one["ids"] == choice["token_ids"]
        assert one["finish"] == choice["finish_reason"]
        assert one["logprobs"] == (choice["logprobs"] or {"content": []})["content"]
    if usage:
        assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize("n", [1, 2])
def test_the_first_chunk_has_what_is_known_of_the_prompt(served: Running, n: int) -> None:
    more = {"prompt_logprobs": 2, "n": n, "return_token_ids": True}
    whole = served.post(CHAT, QUICK | more).json
    chunks = served.post(CHAT, STREAM | more).chunks
    for chunk in chunks:
        check_chunk(chunk, usage=False)
    first, *others = [c for c in chunks if c["choices"][0]["index"] == 0]
    for name in ("prompt_logprobs", "prompt_token_ids"):
        assert first[name] == whole[name] and not any(name in chunk for chunk in others)
    assert len(first["prompt_logprobs"]) == len(first["prompt_token_ids"])
    body = {"model": "tiny", "prompt": ["Once upon", "Hello"], "max_tokens": 2, "temperature": 0}
    body |= {"prompt_logprobs": 1, "n": n}
    expected = served.post(COMPLETE, body).json["choices"]
    found = served.post(COMPLETE, body | {"stream": True}).chunks
    for choice in expected:
        own = [c["choices"][0] for c in found if c["choices"][0]["index"] == choice["index"]]
        assert own[0].get("prompt_logprobs") == choice.get("prompt_logprobs")
        assert ("prompt_logprobs" in own[0]) is (choice["index"] % n == 0)
        assert not any("prompt_logprobs" in one for one in own[1:])


def test_each_choice_begins_with_its_role_and_ends_with_its_reason(served: Running) -> None:
    chunks = served.post(CHAT, STREAM | {"n": 2}).chunks
    for index in (0, 1):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert own[-1]["delta"] == {} and own[-1]["finish_reason"] in ("stop", "length")
        assert all(one["finish_reason"] is None for one in own[:-1])
        assert all("role" not in one["delta"] for one in own[1:])


def test_the_bytes_of_a_stream(served: Running) -> None:
    body = STREAM | USAGE | {"max_tokens": 1, "temperature": 0}
    frames = masked(served.post(CHAT, body).frames)
    head = 'data: {"id":"-","object":"chat.completion.chunk","created":0,"model":"tiny"'
    head += ',"system_fingerprint":"-","choices":['
    open_ = '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null'
    text = '{"index":0,"delta":{"content":"I"},"logprobs":null'
    end = '{"index":0,"delta":{},"logprobs":null,"finish_reason":"length","stop_reason":null}'
    none = ',"finish_reason":null}],"usage":null}'
    details = '"prompt_tokens_details":{"cached_tokens":'
    assert frames[:3] == [
        head + open_ + none,
        head + text + none,
        head + end + '],"usage":null}',
    ]
    assert frames[3].startswith(head + '],"usage":{"prompt_tokens":7,"completion_tokens":1')
    assert details in frames[3]
    assert frames[4:] == ["data: [DONE]"]


def test_the_bytes_of_a_stream_of_text(served: Running) -> None:
    body = {"model": "tiny", "prompt": "Once upon a", "max_tokens": 1, "temperature": 0}
    frames = masked(served.post(COMPLETE, body | {"stream": True}).frames)
    head = 'data: {"id":"-","object":"text_completion","created":0,"model":"tiny"'
    head += ',"system_fingerprint":"-","choices":['
    assert frames == [
        head + '{"index":0,"text":" time","logprobs":null,"finish_reason":null}]}',
        head
        + '{"index":0,"text":"","logprobs":null,"finish_reason":"length","stop_reason":null}]}',
        "data: [DONE]",
    ]


def test_a_stop_string_across_rounds_is_not_shown(served: Running) -> None:
    whole = served.post(CHAT, QUICK | {"max_tokens": 40}).json["choices"][0]["message"]["content"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 9]
    chunks = served.post(CHAT, STREAM | {"max_tokens": 40, "stop": [stop]}).chunks
    [one] = joined(chunks).values()
    assert one["text"] == whole[: whole.index(stop)] and one["finish"] == "stop"


@pytest.mark.parametrize("character", ["é", "😀"])
def test_characters_of_several_tokens_are_whole(served: Running, character: str) -> None:
    """The model may write the tokens of one character only, also in a wrong order."""
    ids = served.post("/tokenize", {"prompt": character, "add_special_tokens": False}).json
    assert len(ids["tokens"]) > 1
    body = STREAM | {"max_tokens": 30, "ignore_eos": True, "temperature": 2}
    body |= {"logit_bias": dict.fromkeys(ids["tokens"], 100), "frequency_penalty": 1}
    text = served.post(CHAT, body | {"stream": False}).json["choices"][0]["message"]["content"]
    chunks = served.post(CHAT, body).chunks
    deltas = [choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]]
    assert "".join(deltas) == text
    assert character in text
    assert character in "|".join(deltas)  # not cut


def test_the_helper_of_the_client_reads_a_stream(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 20, "seed": 1}
    whole = client.chat.completions.create(**fields)
    with client.chat.completions.stream(**fields) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    text = whole.choices[0].message.content
    assert text
    assert "".join(deltas) == final.choices[0].message.content == text
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_stream_that_fails_in_the_server_ends_with_an_error(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outrider.server.answers.chat import ChatWriter

    def fail(self: ChatWriter) -> list[bytes]:
        raise ValueError("a bug")

    monkeypatch.setattr(ChatWriter, "last", fail)
    *_, error, done = served.post(CHAT, STREAM).frames
    assert '"code":"internal_error"' in error and done == "data: [DONE]"
    monkeypatch.setattr(ChatWriter, "answer", fail)
    answer = served.post(CHAT, QUICK)
    assert answer.status == 500 and answer.error["code"] == "internal_error"
    assert "bug" not in answer.error["message"]
    assert served.idle()
