"""The official client of Anthropic: only the address is changed.

It is installed with: pip install anthropic
"""

from collections.abc import Iterator
from typing import Any

import pytest

from outrider.engine.generator import Generator
from tests.server.setups import HELLO, Running, Writes

# The warnings are of the client itself, when it is imported.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BASE: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "messages": HELLO}
SEED = {"extra_body": {"seed": 3}}
TOOL = {"name": "weather", "input_schema": {"type": "object"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[Any]:
    anthropic = pytest.importorskip("anthropic")
    address = served.url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=address, api_key="none", max_retries=0) as found:
        yield found


def test_a_message_and_its_stream(client: Any, generator: Generator) -> None:
    expected = generator.generate(HELLO, seed=3, max_new_tokens=12, temperature=1.0)
    whole = client.messages.create(**BASE, **SEED)
    assert whole.content[0].text == expected.text and whole.role == "assistant"
    assert whole.usage.output_tokens == len(expected.token_ids)
    with client.messages.stream(**BASE, **SEED) as stream:
        assert "".join(stream.text_stream) == expected.text
        final = stream.get_final_message()
    assert final.content[0].text == expected.text and final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    raw = list(client.messages.create(**BASE, **SEED, stream=True))
    assert (raw[0].type, raw[-1].type) == ("message_start", "message_stop")


def test_a_conversation_with_a_call(
    client: Any, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes("I look.", CALL[:20], CALL[20:])
    body = BASE | {"tools": [TOOL], "extra_body": {"ignore_eos": True}, "max_tokens": 40}
    with client.messages.stream(**body) as stream:
        message = stream.get_final_message()
    monkeypatch.undo()  # the model writes again
    text, call = message.content
    assert text.text == "I look." and (call.name, call.input) == ("weather", {"city": "Köln"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    turns = [*HELLO, message.to_param(), {"role": "user", "content": [result]}]
    answer = client.messages.create(**BASE | {"messages": turns, "tools": [TOOL]}, **SEED)
    counted = client.messages.count_tokens(model="tiny", messages=turns, tools=[TOOL])
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_errors_are_those_of_the_client(client: Any) -> None:
    anthropic = pytest.importorskip("anthropic")
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.messages.create(**BASE | {"model": "opus"})
    assert raised.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="tool_choice"):
        client.messages.create(**BASE, tools=[], tool_choice={"type": "any"})
