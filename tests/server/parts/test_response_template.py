"""Answers that the response template of a tokenizer describes."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.engine.generator import Generator
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.schema.chat import Tool
from outrider.server.tools.calls import Thought
from outrider.server.tools.choice import Reader, reader_of
from outrider.server.tools.hermes import Hermes
from tests.server.parts.reading import cut, decoded, read

TOOL = Tool.model_validate(
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}},
    }
)
TEMPLATE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>\n",
    "fields": {
        "reasoning": {"open": "<think>", "close": "</think>", "optional": False},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"content": "text"},
    },
}
CALL = '<call>{"name": "f", "arguments": {"a": "1"}}</call>'
BROKEN = '<call>{"name": "f", "arg</call>'


def tokenizer_of(generator: Generator, template: Any) -> Tokenizer:
    assert isinstance(generator.tokenizer, Tokenizer)
    found: Any = deepcopy(generator.tokenizer.tokenizer)
    found.response_template = template
    return Tokenizer(found)


@pytest.fixture(scope="module")
def reader(generator: Generator) -> Reader:
    return reader_of(tokenizer_of(generator, TEMPLATE), None, tools=[TOOL], prompt=(2,))


CASES: list[tuple[str, list[Any]]] = [
    ("Hello\n", ["Hello"]),
    ("<think>\nHm.\n</think>\n\nYes.", [Thought("Hm."), "Yes."]),
    (f"I look.\n{CALL}\n{CALL}", ["I look.", ("f", {"a": 1}), ("f", {"a": 1})]),
    (f"{BROKEN} b", ['{"name": "f", "argb']),
    (f"{BROKEN}\n{CALL}", ['{"name": "f", "arg', ("f", {"a": 1})]),
    ('<call>{"no": "call"}</call>', ['{"no": "call"}']),
    (CALL[:20], ['{"name": "f", ']),
    ("<think>Hm", [Thought("Hm")]),
    ("a < b <ca", ["a < b <ca"]),
]


@given(case=st.sampled_from(CASES), data=st.data())
def test_the_template_splits_an_answer(reader: Reader, case: Any, data: st.DataObject) -> None:
    text, expected = case
    assert decoded(read(reader.make(), data.draw(cut(text)))) == expected


def test_text_is_returned_as_it_arrives(reader: Reader) -> None:
    parser = reader.make()
    assert parser.feed("Hello <") == ["Hello"] and parser.feed("b") == [" <b"]
    assert parser.feed("<think>Hm") == [Thought("Hm")]
    assert parser.reasons_at(17) and not parser.reasons_at(5)


def test_a_prompt_may_begin_the_answer(generator: Generator) -> None:
    tokenizer = tokenizer_of(generator, TEMPLATE)
    opened = tokenizer.encode_plain("<|assistant|>\n<think>\n")
    parser = reader_of(tokenizer, None, tools=(), prompt=opened).make()
    assert read(parser, ["Hm.</think>Yes."]) == [Thought("Hm."), "Yes."]
    continued = tokenizer.encode_plain("<|assistant|>\nI am a ")
    parser = reader_of(tokenizer, None, tools=(), prompt=continued).make()
    assert read(parser, [f" cat{CALL}"]) == [' cat{"name": "f", "arguments": {"a": "1"}}']


@pytest.mark.parametrize(
    "template", [{"fields": 3}, {"start_anchor": "a", "fields": {"b": {}, "c": {}}}, 5]
)
def test_a_template_that_is_wrong_is_not_used(
    generator: Generator, template: Any, caplog: pytest.LogCaptureFixture
) -> None:
    found = reader_of(tokenizer_of(generator, template), None, tools=[TOOL], prompt=(2,))
    assert isinstance(found.make(), Hermes) and "response template" in caplog.text


def test_a_parser_that_is_named_takes_precedence(generator: Generator) -> None:
    tokenizer = tokenizer_of(generator, TEMPLATE)
    assert isinstance(reader_of(tokenizer, "hermes", tools=[TOOL], prompt=(2,)).make(), Hermes)
