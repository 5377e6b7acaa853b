"""Special tokens: parsers see those that they need, and clients those that they ask for."""

from copy import deepcopy
from typing import Any

import pytest

from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.requests import text_stream
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling import SamplingParams
from outrider.server.schema.chat import Tool
from outrider.server.tools.calls import Part, Thought
from outrider.server.tools.choice import PARSERS, parser_for, reader_of
from tests.server.parts.reading import joined
from tests.server.setups import CHAT, COMPLETE, QUICK, Running

TOOL = Tool.model_validate({"type": "function", "function": {"name": "f"}})
EVERY_MARK = sorted({mark for kind in PARSERS.values() for mark in kind.marks})


@pytest.fixture(scope="module")
def marked(generator: Generator) -> Tokenizer:
    """A tokenizer for which all marks of calls and of reasoning are special tokens."""
    assert isinstance(generator.tokenizer, Tokenizer)
    found: Any = deepcopy(generator.tokenizer.tokenizer)
    found.add_special_tokens({"additional_special_tokens": [*EVERY_MARK, "<think>", "</think>"]})
    return Tokenizer(found)


def answered(tokenizer: Tokenizer, text: str, name: str, tools: bool = True, **how: Any) -> Any:
    """What the parts of an answer are whose tokens arrive one by one."""
    reader = reader_of(tokenizer, name, tools=[TOOL] if tools else (), prompt=(1, 2), **how)
    stream = text_stream(tokenizer, Prompt(token_ids=(1, 2)), SamplingParams(), reader.shown)
    assert stream is not None
    parser, parts = reader.make(), list[Part]()
    for token in tokenizer.encode_plain(text):
        stream.push(token)
        parts += parser.feed(stream.take())
    stream.close()
    return joined([*parts, *parser.feed(stream.take()), *parser.close()])


ANSWERS = [
    ("hermes", 'a <tool_call>{"name": "f", "arguments": {}}</tool_call>', ["a", ["f", "{}"]]),
    ("hermes", "<tool_call>no</tool_call></tool_call>", ["no"]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}', [["f", '{"a": 1}']]),
    ("mistral", "[TOOL_CALLS]no call", ["no call"]),
    ("deepseek", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>", [["f", "{}"]]),
    ("pythonic", "<|python_start|>[f()]<|python_end|>", [["f", "{}"]]),
    ("llama3-json", '<|python_tag|>{"name": "f", "parameters": {}}', [["f", "{}"]]),
    ("llama3-json", "<|python_tag|>print(1)", ["print(1)"]),
    ("harmony", "<|channel|>analysis<|message|>Hm.<|end|>", [Thought("Hm.")]),
]


@pytest.mark.parametrize(("name", "text", "expected"), ANSWERS)
def test_parsers_see_marks_that_are_special_tokens(
    marked: Tokenizer, name: str, text: str, expected: list[Any]
) -> None:
    assert answered(marked, text, name) == expected


def test_other_special_tokens_stay_hidden(marked: Tokenizer) -> None:
    text = "a[TOOL_CALLS]b<|user|>c"
    assert answered(marked, text, "hermes") == ["abc"]
    assert answered(marked, text, "hermes", special=True) == [text]
    assert answered(marked, '<tool_call>{"name": "f"}</tool_call>', "hermes", tools=False) == [
        '{"name": "f"}'
    ]


def test_reasoning_between_special_tokens(marked: Tokenizer) -> None:
    kept = marked.tokenizer.chat_template
    marked.tokenizer.chat_template = "{{ '<think></think>' }}"
    try:
        assert answered(marked, "<think>Hm.</think>Yes</think>.", "none") == [
            Thought("Hm."),
            "Yes.",
        ]
        marked.tokenizer.chat_template = "{{ '[THINK][/THINK]' }}"
        assert answered(marked, "[THINK]Hm.[/THINK]Yes.", "none") == [Thought("Hm."), "Yes."]
    finally:
        marked.tokenizer.chat_template = kept


MARKS = {
    "<|start|>assistant<|channel|>final": "harmony",
    "<｜tool▁calls▁begin｜>": "deepseek",
    "[TOOL_CALLS]": "mistral",
    "<tool_call><function=f><parameter=a>": "qwen3-coder",
    "<tool_call>": "hermes",
    "<function_calls>": "pythonic",
    '{"name": f, "parameters": {}}': "llama3-json",
    "nothing": "hermes",
}


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_the_chat_template_choose_the_parser(marked: Tokenizer, mark: str) -> None:
    fresh = deepcopy(marked.tokenizer)
    fresh.chat_template = "{{ tools }}{# " + mark + " #}"
    assert parser_for(Tokenizer(fresh), None) is PARSERS[MARKS[mark]]


def test_clients_can_see_special_tokens(served: Running) -> None:
    """The model writes `<|user|>` only; a stop string is found in its text."""
    forced = {"logit_bias": {"1": 100}, "max_tokens": 3, "ignore_eos": True}
    for path, body in ((CHAT, QUICK), (COMPLETE, {"model": "tiny", "prompt": "Once"})):
        for more, expected in (({}, ""), ({"skip_special_tokens": False}, "<|user|>" * 3)):
            found = served.post(path, body | forced | more).json["choices"][0]
            assert (found["message"]["content"] if path == CHAT else found["text"]) == expected
    body = QUICK | forced | {"skip_special_tokens": False, "stop": "er|"}
    choice = served.post(CHAT, body).json["choices"][0]
    assert choice["message"]["content"] == "<|us" and choice["finish_reason"] == "stop"
    body = {"model": "tiny", "input": "Hello", "logit_bias": {"1": 100}, "max_output_tokens": 2}
    found = served.post("/v1/responses", body | {"skip_special_tokens": False}).json["output"]
    assert found[0]["content"][0]["text"] == "<|user|>" * 2
