"""Parsers of calls: what they find, in pieces of any size, and what they return as text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from outrider.server.tools.calls import CallBegin, CallEnd, CallText, FunctionCall, Part, Thought
from outrider.server.tools.choice import PARSERS
from outrider.server.tools.harmony import Harmony
from outrider.server.tools.hermes import Hermes
from outrider.server.tools.hidden import Hidden
from outrider.server.tools.llama3_json import Llama3Json
from outrider.server.tools.mistral import Mistral
from outrider.server.tools.pythonic import Pythonic
from outrider.server.tools.qwen3_coder import Qwen3Coder
from tests.server.parts.reading import BROKEN, cut, decoded, read

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
KOELN = ("get_weather", {"city": "Köln"})
CODER = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
BEGINS, ENDS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, SEP, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
V3 = f'{BEGIN}function{SEP}f\n```json\n{{"a": 1}}\n```{END}'
V31 = f'{BEGIN}g{SEP}{{"b": [2]}}{END}'
THINK = "<|channel|>analysis<|message|>Hm.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Yes."
COMMENTARY = "<|start|>assistant<|channel|>commentary"

CASES: list[tuple[str, str, list[Any]]] = [
    ("hermes", "plain text", ["plain text"]),
    ("hermes", CALL, [KOELN]),
    ("hermes", f"I look.\n\n{CALL}\n", ["I look.", KOELN]),
    ("hermes", f"{CALL}\n{CALL}", [KOELN, KOELN]),
    ("hermes", f"{CALL} and more", [KOELN, " and more"]),
    ("hermes", CALL.removesuffix("</tool_call>"), [KOELN]),
    ("hermes", CALL[:30], [CALL[:30]]),
    ("hermes", CALL[:60], [("get_weather", '{"city": "K', BROKEN)]),
    ("hermes", CALL.replace("}}", "}"), [KOELN]),
    ("hermes", CALL.replace("}}", ""), [("get_weather", '{"city": "Köln"\n', BROKEN)]),
    (
        "hermes",
        CALL.replace('"city"', "city") + " b",
        [("get_weather", '{city: "Köln"}', BROKEN), " b"],
    ),
    ("hermes", CALL.replace("}}", '}, "id": 3}'), [KOELN]),
    (
        "hermes",
        CALL.replace("Köln", '</tool_call> \\" {'),
        [("get_weather", {"city": '</tool_call> " {'})],
    ),
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [("f", {"a": 1})]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', [("f", {})]),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', [("f", {})]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}', [("f", '{"a": NaN}', BROKEN)]),
    (
        "hermes",
        '<tool_call>{"arguments": {"a": NaN}, "name": "f"}',
        ['<tool_call>{"arguments": {"a": NaN}, "name": "f"}'],
    ),
    ("hermes", f"<tool_call>{CALL}", [f"<tool_call>{CALL}"]),
    (
        "hermes",
        f"a <tool_call>no JSON</tool_call>{CALL}",
        ["a <tool_call>no JSON</tool_call>", KOELN],
    ),
    ("hermes", f"{CALL[:-12]}{CALL}", [KOELN, KOELN]),
    (
        "hermes",
        '<tool_call>{"name": "a b", "arguments": {}}</tool_call>',
        ['<tool_call>{"name": "a b", "arguments": {}}</tool_call>'],
    ),
    ("hermes", "a < b <tool", ["a < b <tool"]),
    ("hermes", "  spaces  ", ["  spaces  "]),
    ("llama3-json", '{"name": "get_weather", "parameters": {"city": "Köln"}}', [KOELN]),
    ("llama3-json", '<|python_tag|>{"name": "f", "parameters": {}}', [("f", {})]),
    ("llama3-json", '<|python_start|>{"name": "f", "parameters": {}}<|python_end|>', [("f", {})]),
    (
        "llama3-json",
        '{"name": "f", "parameters": {}}; {"name": "g", "arguments": {}}',
        [("f", {}), ("g", {})],
    ),
    ("llama3-json", '{"answer": 1}', ['{"answer": 1}']),
    ("llama3-json", ' {"name": "f"', [' {"name": "f"']),
    ("llama3-json", "Hello {", ["Hello {"]),
    ("mistral", "Hello [x]", ["Hello [x]"]),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', [("f", {"a": 1})]),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": [1]}, "id": "123456789"}, '
        '{"name": "g", "arguments": {}}]',
        [("f", {"a": [1]}), ("g", {})],
    ),
    ("mistral", '[TOOL_CALLS]{"name": "f", "arguments": {}}', [("f", {})]),
    (
        "mistral",
        'Ok. [TOOL_CALLS]f[ARGS]{"a": "[TOOL_CALLS]"}',
        ["Ok.", ("f", {"a": "[TOOL_CALLS]"})],
    ),
    (
        "mistral",
        '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g{"b": 2}',
        [("f", {"a": 1}), ("g", {"b": 2})],
    ),
    ("mistral", "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}", [("f", {})]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1', [("f", '{"a": 1', BROKEN)]),
    (
        "mistral",
        '[TOOL_CALLS]f[ARGS]{"a": [TOOL_CALLS]g[ARGS]{}',
        [("f", '{"a": ', BROKEN), ("g", {})],
    ),
    ("mistral", "[TOOL_CALLS]no call, is it?", ["[TOOL_CALLS]no call, is it?"]),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"b": 1}]',
        [("f", {}), ', {"b": 1}]'],
    ),
    ("pythonic", "plain [text](url)", ["plain [text](url)"]),
    ("pythonic", "[text](url)", ["[text](url)"]),
    ("pythonic", '[f(a=1, b="x"), g()]', [("f", {"a": 1, "b": "x"}), ("g", {})]),
    (
        "pythonic",
        ' [a.b(x=-1.5, y=[1, (2,)], z={"k": None, "l": true})]\n',
        [("a.b", {"x": -1.5, "y": [1, [2]], "z": {"k": None, "l": True}})],
    ),
    ("pythonic", "[f(a=open('x'))]", ["[f(a=open('x'))]"]),
    ("pythonic", "[f(1)]", ["[f(1)]"]),
    ("pythonic", "[f(**{'a': 1})]", ["[f(**{'a': 1})]"]),
    ("pythonic", "[f(a=1e999)]", ["[f(a=1e999)]"]),
    ("pythonic", "[f(a=1), 2]", ["[f(a=1), 2]"]),
    ("pythonic", "[f(a=1", ["[f(a=1"]),
    ("pythonic", "[f(a=1)] and more", ["[f(a=1)] and more"]),
    ("pythonic", "[f(a='\\ud800\\d')]", [("f", {"a": "\ud800\\d"})]),
    ("pythonic", "<|python_start|>[f(a=1)]<|python_end|>", [("f", {"a": 1})]),
    (
        "pythonic",
        "Ok.\n<function_calls>\nf(a=1)\ng(b='x\\ny')\n</function_calls>\nDone.",
        ["Ok.", ("f", {"a": 1}), ("g", {"b": "x\ny"}), "\nDone."],
    ),
    ("pythonic", "<|tool_call_start|>[f()]<|tool_call_end|>Wait.", [("f", {}), "Wait."]),
    (
        "pythonic",
        "<function_calls>import os</function_calls>",
        ["<function_calls>import os</function_calls>"],
    ),
    ("qwen3-coder", "a <b> c", ["a <b> c"]),
    ("qwen3-coder", f"Ok.\n{CODER}\n{CODER}\n", ["Ok.", ("f", {"a": "1"}), ("f", {"a": "1"})]),
    ("qwen3-coder", "<tool_call><function=f></function></tool_call> b", [("f", {}), " b"]),
    (
        "qwen3-coder",
        '<tool_call><function=f><parameter=a>x "y"\n\nz\n</parameter>'
        "<parameter=b>\n</parameter></function></tool_call>",
        [("f", {"a": 'x "y"\n\nz', "b": ""})],
    ),
    ("qwen3-coder", CODER.removeprefix("<tool_call>\n"), [("f", {"a": "1"})]),
    ("qwen3-coder", "<function=f> of x", ["<function=f> of x"]),
    ("qwen3-coder", "<tool_call>\n<function=", ["<tool_call>\n<function="]),
    ("qwen3-coder", CODER[:45], [("f", '{"a": "1', BROKEN)]),
    (
        "qwen3-coder",
        "<tool_call><function=f>what</function></tool_call> b",
        [("f", "", BROKEN), " b"],
    ),
    (
        "qwen3-coder",
        '<tool_call><function=f>\n{"a": 1}\n</function></tool_call>',
        [("f", {"a": 1})],
    ),
    ("qwen3-coder", CALL, [CALL]),
    ("deepseek", "plain", ["plain"]),
    ("deepseek", f"Ok. {BEGINS}{V3}{ENDS}", ["Ok.", ("f", {"a": 1})]),
    ("deepseek", f"{BEGINS}{V3}\n{V3}{ENDS}\n", [("f", {"a": 1}), ("f", {"a": 1})]),
    ("deepseek", f"{BEGINS}{V31}{V31}{ENDS}", [("g", {"b": [2]}), ("g", {"b": [2]})]),
    ("deepseek", f"{BEGINS}{BEGIN}function{SEP}{{}}{END}{ENDS}", [("function", {})]),
    ("deepseek", f'{BEGINS}{BEGIN}g{SEP}{{"b": "{END}', [("g", f'{{"b": "{END}', BROKEN)]),
    ("deepseek", f"{BEGINS}{BEGIN}g{SEP}{{{END}{ENDS} b", [("g", "{", BROKEN), " b"]),
    ("deepseek", f"{BEGIN}no call", [f"{BEGIN}no call"]),
    ("harmony", "No header", ["No header"]),
    ("harmony", THINK + FINAL, [Thought("Hm."), "Yes."]),
    (
        "harmony",
        f'{THINK}{COMMENTARY} to=functions.f <|constrain|>json<|message|>{{"a": 1}}<|call|>',
        [Thought("Hm."), ("f", {"a": 1})],
    ),
    (
        "harmony",
        f'{COMMENTARY} to=functions.f<|message|>{{"a": "<|end|>"}}',
        [("f", {"a": "<|end|>"})],
    ),
    (
        "harmony",
        '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a"',
        [("f", '{"a"', BROKEN)],
    ),
    ("harmony", " to=functions.f<|channel|>commentary<|message|>{}", [("f", {})]),
    (
        "harmony",
        f"{COMMENTARY}<|message|>Plan.<|end|>"
        f"{COMMENTARY} to=functions.f<|message|>{{}}<|call|>{FINAL}",
        ["Plan.", ("f", {}), "\n\nYes."],
    ),
    ("harmony", f"{COMMENTARY} to=functions.f<|message|>print(1)<|call|>", ["print(1)"]),
    ("harmony", f"{COMMENTARY} to=assistant<|message|>Hello", ["Hello"]),
    (
        "harmony",
        f"<|channel|>analysis to=browser.search<|message|>q<|call|>{THINK}",
        [Thought("q\n\nHm.")],
    ),
    ("harmony", "<|channel|>anal", []),
    ("harmony", "to=5 is right", ["to=5 is right"]),
    ("none", CALL, [CALL]),
]


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_calls_are_found(name: str, text: str, expected: list[Any]) -> None:
    assert decoded(read(PARSERS[name](), [text])) == expected
    assert decoded(read(PARSERS[name](), text)) == expected
    for at in range(1, len(text)):
        assert decoded(read(PARSERS[name](), [text[:at], text[at:]])) == expected


@given(case=st.sampled_from(CASES), data=st.data())
def test_pieces_of_any_size_give_the_same(case: tuple[str, str, Any], data: st.DataObject) -> None:
    name, text, _ = case
    pieces = data.draw(cut(text))
    assert read(PARSERS[name](), pieces) == read(PARSERS[name](), [text])


FRAGMENTS = (
    *("Hello", " ", "\n", "{", "}", "[", "]", '"', "\\", ",", ":", "(", ")", "=", "<", ">", "1"),
    *(
        '{"name": "f", "arguments": {"a": 1}}',
        '"name"',
        '{"a": [1]}',
        "f",
        "f(a=1)",
        "to=functions.f",
    ),
    *("```json\n", "```", "<parameter=a>", "</parameter>", "<function=f>", "</function>"),
    *sorted({mark for kind in PARSERS.values() for mark in kind.marks}),
)


@settings(max_examples=120)
@given(
    name=st.sampled_from(sorted(PARSERS)),
    fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=14),
    data=st.data(),
)
def test_any_text_in_any_pieces(name: str, fragments: list[str], data: st.DataObject) -> None:
    """The same is found, whole calls have JSON, and no control mark is part of the answer."""
    kind, text = PARSERS[name], "".join(fragments)
    found = read(kind(), [text])
    assert read(kind(), data.draw(cut(text))) == found
    assert all(
        isinstance(json.loads(one[1]), dict)
        for one in found
        if isinstance(one, list) and len(one) == 2
    )
    if kind.control:
        clean = read(Hidden(kind(), kind.control), [text])
        assert read(Hidden(kind(), kind.control), data.draw(cut(text))) == clean
        assert not any(
            mark in one for one in clean if isinstance(one, str) for mark in kind.control
        )


def test_text_is_returned_as_soon_as_no_call_can_begin_in_it() -> None:
    parser = Hermes()
    assert parser.feed("Hello <b") == ["Hello <b"]
    assert parser.feed(" and <tool") == [" and"]
    assert parser.feed("s") == [" <tools"]
    assert Llama3Json().feed("Hi") == ["Hi"] and Mistral().feed("a [TOOL") == ["a"]
    listed = Pythonic()
    assert listed.feed("[text") == [] and listed.feed("](") == ["[text]("]
    spoken = Harmony()
    assert spoken.feed(THINK[:-9]) == [Thought("H")]
    assert spoken.feed("m.<|en") == [Thought("m.")]


STREAMED: list[tuple[str, list[str], list[list[Part]]]] = [
    (
        "hermes",
        [CALL[:25], CALL[25:57], CALL[57:60], CALL[60:]],
        [[], [CallText('{"city":')], [CallText(' "K')], [CallText('öln"}'), CallEnd()]],
    ),
    (
        "mistral",
        ["[TOOL_CALLS]f", '[ARGS]{"a"', ":1}"],
        [[], [CallText('{"a"')], [CallText(":1}"), CallEnd()]],
    ),
    (
        "qwen3-coder",
        ["<tool_call><function=f>\n<parameter=a>\nlong", ' "text"\n</param', "eter></function>"],
        [
            [CallText('{"a": '), CallText('"'), CallText("long")],
            [CallText(' \\"text\\"')],
            [CallText('"'), CallText("}"), CallEnd()],
        ],
    ),
    (
        "deepseek",
        [f"{BEGIN}g{SEP}{{", '"a": 1}\n``', f"`{END}"],
        [[CallText("{")], [CallText('"a": 1}'), CallEnd()], []],
    ),
    (
        "harmony",
        ["<|channel|>commentary to=functions.f<|message|>{", '"a": 1', "}"],
        [[CallText("{")], [CallText('"a": 1')], [CallText("}"), CallEnd()]],
    ),
]


@pytest.mark.parametrize(("name", "pieces", "expected"), STREAMED)
def test_arguments_are_returned_as_they_arrive(
    name: str, pieces: list[str], expected: list[list[Part]]
) -> None:
    parser, begun = PARSERS[name](), 0
    for piece, parts in zip(pieces, expected, strict=True):
        found = parser.feed(piece)
        begun += sum(isinstance(part, CallBegin) for part in found)
        assert [part for part in found if not isinstance(part, CallBegin)] == parts
    assert begun == 1 and parser.close() == []


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "sure": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "note": {"type": ["string", "null"]},
        "level": {"enum": [1, 2]},
        "place": {"$ref": "#/$defs/Place"},
        "odd": {"type": 3, "anyOf": 4, "$ref": "#/no/where", "oneOf": [{"$ref": "#"}]},
    },
    "$defs": {"Place": {"type": "object"}},
}
VALUES = [
    ("text", "5", "5"),
    ("count", "5", 5),
    ("count", "3.0", 3),
    ("count", "many", "many"),
    ("share", "0.50", 0.5),
    ("share", "NaN", "NaN"),
    ("sure", "True", True),
    ("sure", "null", None),
    ("note", "None", None),
    ("note", "12", "12"),
    ("level", "2", 2),
    ("place", '{"x": [1]}', {"x": [1]}),
    ("place", "[1]", "[1]"),
    ("odd", "1", "1"),
    ("unknown", "1", "1"),
]


@pytest.mark.parametrize(("key", "written", "value"), VALUES)
def test_values_have_the_types_of_the_schema(key: str, written: str, value: object) -> None:
    text = (
        f"<tool_call><function=f><parameter={key}>\n{written}\n</parameter></function></tool_call>"
    )
    assert decoded(read(Qwen3Coder({"f": SCHEMA}), [text])) == [("f", {key: value})]
    assert decoded(read(Qwen3Coder({"g": SCHEMA}), [text])) == [("f", {key: written})]


def test_a_schema_with_many_alternatives_is_read_once() -> None:
    nested: dict[str, Any] = {"type": "integer"}
    for _ in range(40):
        nested = {"anyOf": [nested, nested, nested]}
    schema = {"properties": {"a": nested}}
    assert decoded(read(Qwen3Coder({"f": schema}), [CODER])) == [("f", {"a": 1})]


def test_identifiers_of_calls() -> None:
    first, second = FunctionCall("f", "{}"), FunctionCall("f", "{}")
    assert first.id != second.id
    text = "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}"
    ids = [part.id for part in Mistral().feed(text) if isinstance(part, CallBegin)]
    assert len(ids[0]) == 9 and ids[0].isalnum() and ids[1] == "abcdefghi"


@pytest.mark.parametrize("name", PARSERS)
def test_deep_and_odd_texts_do_no_harm(name: str) -> None:
    kind = PARSERS[name]
    for mark in (*kind.marks, "<tool_call><function=f><parameter=a>", "[f(a=", ""):
        deep = '{"name": "f", "arguments": ' + '{"a":' * 20_000
        for text in ("[" * 20_000, deep, "9" * 9000, "\0"):
            read(kind(), [mark + text])
    call = '{"name": "f", "arguments": "\\ud800"}'
    for text in (f"<tool_call>{call}</tool_call>", f"[TOOL_CALLS][{call}]", call):
        to_json(read(kind(), [text]))  # it can be sent
