"""Wrong requests: their status, code and field, in one shape."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.cli.commands.serve import _given
from outrider.cli.options.serving import Behaviour
from outrider.core.errors import OptionError
from outrider.engine.generator import Generator
from outrider.server.settings import ServerSettings
from tests.server.setups import CHAT, HELLO, QUICK, Running, running

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "Hello"}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_field"),
        ({"messages": [{"role": "critic", "content": "a"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"no": 1}}, "logit_bias", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"min_tokens": 9}, "min_tokens", "invalid_value"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
        ({"temprature": 1}, "temprature", "unknown_field"),
        ({"audio": {"voice": "a"}}, "audio", "unsupported_field"),
        ({"functions": []}, "functions", "unsupported_field"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_field"),
        ({"store": True}, "store", "invalid_value"),
        ({"guided_json": {"type": 7}}, "guided_json", "invalid_schema"),
        ({"length_penalty": 2}, "length_penalty", "unsupported_field"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": "some"}, "tool_choice", "invalid_value"),
        ({"tool_choice": TOOL}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "custom"}]}, "tools", "unsupported_field"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "invalid_value",
        ),
        (
            {"chat_template_kwargs": {"messages": []}},
            "messages",
            "invalid_value",
        ),
    ],
)
def test_a_wrong_field_is_named(
    served: Running, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = served.post(CHAT, QUICK | fields)
    assert answer.status == 400
    assert (answer.error["param"], answer.error["code"]) == (param, code), answer.error
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"a": ' * 5000,
        b"[" * 100_000,
        b'{"model": "tiny", "messages": [], "n": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "temperature": NaN}',
        b'{"model": "tiny", "temperature": 1e999, "messages": [{"role":"user","content":"a"}]}',
    ],
)
def test_a_body_that_is_no_request(served: Running, body: bytes) -> None:
    answer = served.post(CHAT, body)
    assert answer.status == 400 and answer.error["code"] in ("invalid_value", "missing_field")


def test_a_body_of_another_type_is_refused(served: Running) -> None:
    answer = served.send("POST", CHAT, json.dumps(QUICK).encode(), {"content-type": "text/plain"})
    assert answer.status == 400 and answer.error["param"] == "content-type"


def test_an_unknown_model(served: Running) -> None:
    answer = served.post(CHAT, QUICK | {"model": "gpt-4"})
    assert answer.status == 404
    assert (answer.error["code"], answer.error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "unsupported_endpoint"),
        ("POST", "/v1/audio/speech", 404, "unsupported_endpoint"),
        ("GET", "/v1/files", 404, "unsupported_endpoint"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
def test_paths_that_do_not_exist(
    served: Running, method: str, path: str, status: int, code: str
) -> None:
    answer = served.send(method, path, b"{}", {"content-type": "application/json"})
    assert (answer.status, answer.error["code"]) == (status, code)


def test_identifiers_are_echoed(served: Running) -> None:
    assert served.get("/health", x_request_id="abc-1").headers["x-request-id"] == "abc-1"
    first, second = (served.get("/health").headers["x-request-id"] for _ in range(2))
    assert first != second and first.startswith("req-")
    assert served.get("/health", x_request_id="a b").headers["x-request-id"] != "a b"


def test_fields_without_effect_are_named_in_a_header(served: Running) -> None:
    messages = [HELLO[0] | {"cache_control": 1}]
    body = QUICK | {"fancy": 1, "reasoning_effort": "high", "messages": messages, "nothing": None}
    answer = served.post(CHAT, body)
    assert answer.status == 200
    names = answer.headers["x-outrider-ignored-fields"].split(", ")
    assert names == ["fancy", "messages.cache_control", "reasoning_effort"]
    assert "x-outrider-ignored-fields" not in served.post(CHAT, QUICK | {"metadata": {}}).headers


def test_fields_without_effect_can_be_refused(generator: Generator) -> None:
    """`--unknown-fields refuse`; hints of the client are no unknown fields."""
    settings = ServerSettings(model_names=("tiny",), unknown_fields="refuse")
    nested = {"messages": [HELLO[0] | {"cache_control": 1}]}
    with running(generator, settings) as served:
        for fields, name in (({"fancy": 1}, "fancy"), (nested, "messages.cache_control")):
            answer = served.post(CHAT, QUICK | fields)
            assert answer.status == 400
            assert (answer.error["code"], answer.error["param"]) == ("unknown_field", name)
        assert served.post(CHAT, QUICK | {"metadata": {}, "nothing": None}).status == 200
    with pytest.raises(OptionError, match="ignore, refuse"):
        ServerSettings(unknown_fields="maybe")
    given = Behaviour(unknown_fields="refuse")
    assert _given(given)["unknown_fields"] == "refuse"


def test_fields_without_effect_are_logged_once(
    served: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "outrider.server.requests"):
        for _ in range(2):
            served.post(CHAT, QUICK | {"wonderful": 1})
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert [line.get("ignored_field") for line in lines].count("wonderful") == 1
    [done, _] = [line for line in lines if "outcome" in line]
    assert done["outcome"] == "done" and done["path"] == CHAT and done["completion_tokens"] == 8
    assert "Hello" not in caplog.text


def test_the_error_of_a_stream_has_a_status(served: Running) -> None:
    long = QUICK | {"messages": [{"role": "user", "content": "word " * 3000}], "stream": True}
    answer = served.post(CHAT, long)
    assert answer.status == 400 and answer.error["code"] == "context_length_exceeded"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ("messages", "n", "stop", "tools", "seed", "logit_bias", "stream_options", "top_k")
FIELDS += ("temperature", "prediction", "chat_template_kwargs", "response_format", "priority")


@settings(max_examples=40)
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_value_is_answered_or_refused(served: Running, field: str, value: Any) -> None:
    answer = served.post(CHAT, QUICK | {"max_tokens": 1} | {field: value})
    assert answer.status in (200, 400)
    assert answer.status == 200 or answer.error["message"]
