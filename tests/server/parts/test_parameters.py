"""From the fields of a request to the options of the library, and what a window leaves."""

from typing import Any

import pytest

from outrider.engine.generator import Generator
from outrider.engine.serving.settings import ServingSettings
from outrider.server.errors import ApiError
from outrider.server.prompts.parameters import sampling_options
from outrider.server.schema.chat import ChatBody
from tests.server.setups import CHAT, HELLO, QUICK, running


def options(recommended: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    body = ChatBody.model_validate({"model": "m", "messages": HELLO} | fields)
    return sampling_options(body, recommended or {}, 100)


def test_defaults_are_those_of_the_checkpoint_else_of_openai() -> None:
    assert options() == {"temperature": 1.0, "top_p": 1.0}
    assert options({"temperature": 0.6}) == {"top_p": 1.0}
    assert options({"temperature": 0.6}, temperature=0)["temperature"] == 0


def test_a_bias_of_minus_100_bans() -> None:
    found = options(logit_bias={"3": -100, "4": -99.5, "5": 2})
    assert found["banned_tokens"] == (3,) and found["logit_bias"] == {4: -99.5, 5: 2}
    with pytest.raises(ApiError):
        options(logit_bias={"100": 1})


def test_names_of_the_library() -> None:
    found = options(top_k=-1, stop="a", min_tokens=2, max_completion_tokens=5, max_tokens=9)
    assert found["top_k"] == 0 and found["stop"] == ("a",)
    assert found["min_new_tokens"] == 2 and found["max_new_tokens"] == 5
    assert "logprobs" not in found and options(logprobs=True)["logprobs"] == 0
    assert options(logprobs=True, top_logprobs=4)["logprobs"] == 4


def test_the_window_is_what_the_caches_have_room_for(generator: Generator) -> None:
    with running(generator, engine_settings=ServingSettings(cache_tokens=128)) as served:
        window = served.get("/v1/models/tiny").json["max_model_len"]
        assert 64 <= window <= 128
        long = QUICK | {"messages": [{"role": "user", "content": "word " * window}]}
        answer = served.post(CHAT, long)
        assert answer.status == 400 and answer.error["code"] == "context_length_exceeded"
        body = QUICK | {"max_tokens": 2000, "ignore_eos": True}
        cut = served.post(CHAT, body).json
        assert cut["usage"]["total_tokens"] == window
        assert cut["choices"][0]["finish_reason"] == "length"
