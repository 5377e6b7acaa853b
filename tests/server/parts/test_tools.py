"""Functions that a model may call: how they are shown, and how calls are found."""

import json
from copy import deepcopy
from typing import Any

import pytest

from outrider.core.errors import OptionError
from outrider.engine.generator import Generator
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.prompts.conversation import template_messages
from outrider.server.prompts.rendering import Conversation, chat_text
from outrider.server.schema.chat import ChatMessage
from outrider.server.tools.calls import NoCalls
from outrider.server.tools.choice import parser_for
from outrider.server.tools.hermes import Hermes
from outrider.server.tools.llama3_json import Llama3Json
from outrider.server.tools.showing import DEFAULT_TEXT
from tests.server.setups import CHAT, HELLO, QUICK, Running, Writes

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_are_listed_where_the_template_does_not_show_them(
    served: Running, choice: str
) -> None:
    body = QUICK | {"tools": [WEATHER], "tool_choice": choice}
    prompt = served.post(f"{CHAT}/render", body).json["prompt"]
    assert DEFAULT_TEXT.splitlines()[0] in prompt and '"name": "get_weather"' in prompt
    system = [{"role": "system", "content": "Be brief."}, *HELLO]
    prompt = served.post(f"{CHAT}/render", body | {"messages": system}).json["prompt"]
    assert prompt.startswith("Be brief.\n\n" + DEFAULT_TEXT.splitlines()[0])


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_the_model_is_an_answer_of_the_server(
    served: Running, writes: Writes, stream: bool
) -> None:
    writes("I look.\n<tool_", CALL[6:20], CALL[20:])
    body = QUICK | {"tools": [WEATHER], "stop": "?", "ignore_eos": True, "max_tokens": 40}
    answer = served.post(CHAT, body | {"stream": stream})
    if not stream:
        message = answer.json["choices"][0]["message"]
        assert message["content"] == "I look."
        [call] = message["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}
        return
    deltas = [chunk["choices"][0]["delta"] for chunk in answer.chunks]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "get_weather" and calls[0]["id"]
    assert "name" not in calls[1]["function"]
    assert json.loads("".join(c["function"]["arguments"] for c in calls)) == {"city": "Köln"}
    assert "".join(delta.get("content") or "" for delta in deltas) == "I look."


def test_messages_of_tools_as_templates_read_them() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    first, second = template_messages([ChatMessage.model_validate(m) for m in messages])
    assert first["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert first["content"] == "" and second["name"] == "f"


@pytest.mark.parametrize("how", ["+ {} +", "~ ({} | tojson) ~"])
def test_arguments_have_the_form_that_the_template_reads(generator: Generator, how: str) -> None:
    """Some templates join the arguments with text, others write them as JSON."""
    shown = "'<|call|>' " + how.format("m.tool_calls[0].function.arguments") + " '<|end|>'"
    template = (
        "{% for m in messages %}{{ " + shown + " if m.tool_calls else m.content }}{% endfor %}"
    )
    assert isinstance(generator.tokenizer, Tokenizer)
    copied: Any = deepcopy(generator.tokenizer.tokenizer)
    copied.chat_template = template
    tokenizer = Tokenizer(copied)
    assert tokenizer.reads_objects is ("tojson" in how)
    function = {"name": "f", "arguments": '{"a": "ö"}'}
    messages: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": function}]},
    ]
    asked = Conversation(messages=[ChatMessage.model_validate(one) for one in messages])
    text = chat_text(asked, template_messages(asked.messages), tokenizer)
    assert text == 'Hi<|call|>{"a": "ö"}<|end|>'


TEMPLATES = {
    "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}{{ messages[0]['content'] }}": Hermes,
    "{% for t in tools or [] %}{{ t | tojson }}<|python_tag|>{% endfor %}x": Llama3Json,
    "{{ messages[0]['content'] }}": Hermes,
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_chooses_the_parser(generator: Generator, template: str) -> None:
    assert isinstance(generator.tokenizer, Tokenizer)
    kept = generator.tokenizer.tokenizer
    fresh = type("Copy", (), {})()
    fresh.__dict__ |= {"chat_template": template, "special_tokens_map": kept.special_tokens_map}
    fresh.get_chat_template = lambda given: given or template
    tokenizer = Tokenizer(fresh)
    assert tokenizer.reads_tools is ("tools" in template)
    assert parser_for(tokenizer, None) is TEMPLATES[template]
    assert parser_for(tokenizer, "none") is NoCalls
    with pytest.raises(OptionError, match="hermes"):
        parser_for(tokenizer, "hermess")
