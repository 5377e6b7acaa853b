"""What the grammar of calls allows, the parser of the same form reads as valid calls."""

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.constraints.arguments import _fields
from outrider.constraints.grammars import Grammars
from outrider.constraints.tools import Setting, ToolSpec, required_calls, triggered_calls
from outrider.core.errors import OptionError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Matcher
from outrider.server.tools.calls import Schemas
from outrider.server.tools.choice import PARSERS
from outrider.server.tools.incremental import Incremental
from outrider.server.tools.reasoning import Reasoning
from tests.constraints.test_walk import generator
from tests.server.parts.reading import read

FORMS = {
    "hermes": ("hermes", ""),
    "llama3-json": ("llama3-json", ""),
    "mistral": ("mistral", ""),
    "mistral-named": ("mistral", "[ARGS]"),
    "pythonic": ("pythonic", ""),
    "lfm2": ("pythonic", "<|tool_call_start|>"),
    "olmo3": ("pythonic", "<function_calls>"),
    "qwen3-coder": ("qwen3-coder", ""),
    "deepseek": ("deepseek", ""),
    "deepseek-fenced": ("deepseek", "```json"),
    "harmony": ("harmony", ""),
}
"""All forms: the parser, and a mark of the chat template."""
MARKS = sorted({mark for kind in PARSERS.values() for mark in kind.marks})
THOUGHT = ("<think>", "</think>")
OBJECT = {"type": "object", "additionalProperties": False}
VALUES: tuple[dict[str, Any], ...] = (
    {"type": "string", "maxLength": 4},
    {"type": "string", "enum": ["a b", 'q"q', "</x>\n"]},
    {"type": "integer", "minimum": -20, "maximum": 300},
    {"type": "boolean"},
    {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    {"enum": [1, 2.5, None]},
    {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "maxItems": 2},
    {**OBJECT, "properties": {"x": {"type": "string", "maxLength": 2}}, "required": ["x"]},
    {"$ref": "#/$defs/size"},
)
DEFINED = {"size": {"enum": ["small", "large"]}}


def test_each_parser_has_its_forms_here() -> None:
    """A parser without a line in `FORMS` and `CALLS` would not be tested against its grammar."""
    read_calls = {name for name, kind in PARSERS.items() if issubclass(kind, Incremental)}
    assert {kind for kind, _ in FORMS.values()} == read_calls
    assert set(CALLS) == set(FORMS)


@cache
def grammars(special: bool) -> Grammars:
    """Of the model that ships; with marks of calls that are special tokens, or plain text."""
    found = generator().tokenizer
    assert isinstance(found, Tokenizer)
    if special:
        inner: Any = deepcopy(found.tokenizer)
        inner.add_special_tokens({"additional_special_tokens": [*MARKS, *THOUGHT]})
        found = Tokenizer(inner)
    return Grammars(found, (0,), len(found.table))


def setting(name: str, special: bool = False, **more: Any) -> Setting:
    kind, template = FORMS[name]
    parser = PARSERS[kind]
    assert issubclass(parser, Incremental)
    texts = tokenizer(special).special_texts
    return Setting(form=parser.form(template), special=texts, ends=frozenset((texts[0],)), **more)


def tokenizer(special: bool) -> Tokenizer:
    return grammars(special)._tokenizer  # pyright: ignore[reportPrivateUsage]


def walked(matcher: Matcher, seed: int, special: bool, most: int = 600) -> str:
    """A random text of a grammar; it ends where it may, most of the time."""
    chance, ids = random.Random(seed), list[int]()
    while len(ids) < most and not (matcher.accepting and chance.random() < 0.7):
        fitting = np.flatnonzero(matcher.allowed())
        if not len(fitting):
            break
        token = int(chance.choice(fitting))
        assert matcher.advance([token]) == 1
        ids.append(token)
    assert matcher.accepting, tokenizer(special).decode_all(ids)
    return tokenizer(special).decode_all(ids)


def schemas_of(tools: Sequence[ToolSpec]) -> Schemas:
    return {tool.name: tool.parameters for tool in tools}


def check_calls(found: Sequence[Any], tools: Sequence[ToolSpec]) -> list[str]:
    """Check that all parts are valid calls; return their names."""
    schemas = schemas_of(tools)
    for name, arguments in found:
        assert jsonschema_rs.is_valid(dict(schemas[name]), json.loads(arguments)), (name, arguments)
    return [name for name, _ in found]


@st.composite
def tool_lists(draw: st.DrawFn) -> list[ToolSpec]:
    found: list[ToolSpec] = []
    for name in draw(st.sampled_from([("f",), ("f", "get_weather")])):
        keys = draw(st.lists(st.sampled_from(["a", "b_1", "city", "n"]), max_size=3, unique=True))
        properties = {key: draw(st.sampled_from(VALUES)) for key in keys}
        required = [key for key in keys if draw(st.booleans())]
        schema = {**OBJECT, "properties": properties, "required": required, "$defs": DEFINED}
        found.append(ToolSpec(name=name, parameters=schema, strict=True))
    return found


@pytest.mark.parametrize("name", FORMS)
@given(tools=tool_lists(), seed=st.integers(0, 99), special=st.booleans(), several=st.booleans())
def test_required_calls_are_read(
    name: str, tools: list[ToolSpec], seed: int, special: bool, several: bool
) -> None:
    given_ = setting(name, special, parallel=several)
    given_ = replace(given_, form=replace(given_.form, thought=None))  # it has no length
    matcher = grammars(special).of(required_calls(tools, given_)).begin()
    text = walked(matcher, seed, special)
    found = read(PARSERS[FORMS[name][0]](schemas_of(tools)), [text])  # pyright: ignore
    names = check_calls(found, tools)
    assert names and (several or len(names) == 1), text


CITY = {**OBJECT, "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
WEATHER = ToolSpec(name="weather", parameters=CITY, strict=True)
CALLS = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
    "llama3-json": '{"name": "weather", "parameters": {"city": "Rome"}}',
    "mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]',
    "mistral-named": '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}',
    "pythonic": '[weather(city="Rome")]',
    "lfm2": '<|tool_call_start|>[weather(city="Rome")]<|tool_call_end|>',
    "olmo3": '<function_calls>\nweather(city="Rome")\n</function_calls>',
    "qwen3-coder": "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n"
    "</function>\n</tool_call>",
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
    '{"city": "Rome"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek-fenced": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
    '```json\n{"city": "Rome"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "harmony": "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    '{"city": "Rome"}<|call|>',
}


def text(key: str, value: Any, **more: Any) -> dict[str, Any]:
    """The schema of arguments with one text."""
    return {"properties": {"a": {"type": "string", key: value, **more}}}


AFTER = {"hermes": " ok", "qwen3-coder": " ok"}
"""What may follow a call, where anything may."""


def reads(constraint: Constraint, text: str, special: bool) -> bool | None:
    """Whether a text may end; None if it is not allowed."""
    matcher = grammars(special).of(constraint).begin()
    ids = tokenizer(special).encode_plain(text)
    return matcher.accepting if matcher.advance(ids) == len(ids) else None


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_calls_as_models_write_them(name: str, special: bool) -> None:
    """With required calls, and among free text: there, a call of another kind is not allowed."""
    given_, call = setting(name, special), CALLS[name]
    wrong = call.replace("Rome", "Paris")
    assert reads(required_calls([WEATHER], given_), call, special) is True
    assert reads(required_calls([WEATHER], given_), wrong, special) is None
    assert reads(required_calls([WEATHER], given_), "Hello", special) is None
    free = triggered_calls([WEATHER], given_)
    before = "" if given_.form.opens is None else "Let me see. "
    assert reads(free, "Hello. No call.", special) is True
    assert reads(free, before + call + AFTER.get(name, ""), special) is True
    assert reads(free, before + wrong, special) is None
    alone = triggered_calls([WEATHER], setting(name, special, parallel=False))
    more = given_.form.between + given_.form.begin
    assert reads(alone, before + call, special) is True
    assert reads(alone, before + call + more, special) is None


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["hermes", "llama3-json"])
def test_calls_follow_reasoning(name: str, special: bool) -> None:
    call = CALLS[name]
    open_ = setting(name, special, thought=THOUGHT)
    assert reads(required_calls([WEATHER], open_), call, special) is True
    assert (
        reads(required_calls([WEATHER], open_), f"<think>{{so</think>\n\n{call}", special) is True
    )
    assert reads(required_calls([WEATHER], open_), "<think>so</think>no", special) is None
    inside = setting(name, special, thought=THOUGHT, inside=True)
    constraint = required_calls([WEATHER], inside)
    assert reads(constraint, "so it is", special) is False
    assert reads(constraint, f"so </think>\n\n{call}", special) is True
    assert reads(constraint, "so </think>no", special) is None
    parser = Reasoning(PARSERS[name](schemas_of([WEATHER])), True, THOUGHT)  # pyright: ignore
    _, *calls = read(parser, [f"so </think>\n\n{call}"])
    assert check_calls(calls, [WEATHER]) == ["weather"]


def test_reasoning_of_channels_comes_before_a_call() -> None:
    for special in (False, True):
        text = "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant" + CALLS["harmony"]
        assert reads(required_calls([WEATHER], setting("harmony", special)), text, special) is True


def test_nothing_follows_an_end_token() -> None:
    """A mark that ends the text, as `<|call|>` of gpt-oss does, is not part of the grammar."""
    given_ = setting("harmony")
    ending = Setting(form=given_.form, special=given_.special, ends=frozenset(("<|call|>",)))
    text = CALLS["harmony"].removesuffix("<|call|>")
    assert reads(required_calls([WEATHER], ending), text, False) is True
    assert reads(required_calls([WEATHER], ending), text + "<|start|>", False) is None


def test_tools_that_are_not_strict_are_read_as_far_as_possible() -> None:
    schema = {**OBJECT, "properties": {"a": {"type": "array", "uniqueItems": True}}}
    for strict in (False, True):
        constraint = required_calls(
            [ToolSpec(name="f", parameters=schema, strict=strict)], setting("hermes")
        )
        if strict:
            with pytest.raises(OptionError, match="uniqueItems"):
                grammars(False).of(constraint)
        else:
            grammars(False).of(constraint)


@pytest.mark.parametrize(
    ("form", "schema", "words"),
    [
        ("pythonic", {"properties": {"no way": {}}}, "the name 'no way'"),
        ("pythonic", {"properties": {"from": {}}}, "the name 'from'"),
        ("pythonic", {"minProperties": 1}, "the keyword 'minProperties'"),
        ("qwen3-coder", {"properties": {"a": {"type": "string", "pattern": "a"}}}, "'pattern'"),
        ("qwen3-coder", {"properties": {"a>": {}}}, "a parameter"),
        ("qwen3-coder", text("enum", ["a", "bb"], maxLength=1), "'maxLength'"),
        ("qwen3-coder", text("enum", ["a"], const="a"), "'const'"),
        ("qwen3-coder", text("enum", [1]), "'enum'"),
        ("qwen3-coder", text("$ref", "#/$defs/none"), "beside \\$ref"),
        ("qwen3-coder", {"properties": {"a": {"$ref": "#/$defs/a~1b"}}}, "the reference"),
        ("qwen3-coder", {"properties": {"a": {"$ref": "#/properties/b"}}}, "a reference"),
        ("hermes", {"properties": {"a": {"minLength": 10**6}}}, "minLength"),
    ],
)
def test_tools_that_cannot_be_written(form: str, schema: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        required_calls([ToolSpec(name="f", parameters=schema, strict=True)], setting(form))


def test_texts_behind_several_references_are_followed() -> None:
    """The form of the model has tags; a length may be written as a number with a point."""
    definitions = {"a": {"$ref": "#/$defs/b"}, "b": {"type": "string", "maxLength": 3.0}}
    schema: dict[str, Any] = {**OBJECT, "properties": {"city": {"$ref": "#/$defs/a"}}}
    tool = ToolSpec(name="weather", parameters=schema | {"$defs": definitions}, strict=True)
    constraint = required_calls([tool], setting("qwen3-coder"))
    call = CALLS["qwen3-coder"]
    assert reads(constraint, call, False) is None
    assert reads(constraint, call.replace("Rome", "Ulm"), False) is True


def test_lists_of_tools_that_are_refused() -> None:
    with pytest.raises(OptionError, match="no tool"):
        required_calls([], setting("hermes"))
    with pytest.raises(OptionError, match="two tools have the name 'weather'"):
        required_calls([WEATHER, WEATHER], setting("hermes"))
    many = [ToolSpec(name=f"f{i}", parameters={}) for i in range(257)]
    with pytest.raises(OptionError, match="257 tools"):
        required_calls(many, setting("hermes"))


def test_a_reference_elsewhere_frees_its_parameter_only() -> None:
    """The definitions stay for the parameters that follow."""
    schema: dict[str, Any] = {
        "properties": {"a": {"$ref": "https://a.example/b"}, "c": {"$ref": "#/$defs/d"}},
        "$defs": {"d": {"type": "integer"}},
    }
    found = {name: own for name, own, _ in _fields("tool", schema, strict=False)}
    assert found["a"] == {} and found["c"]["$defs"] == schema["$defs"]
