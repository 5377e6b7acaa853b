"""Chat templates: ordinary ones render as with transformers, hostile ones are stopped."""

import re
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from tokenizers import Tokenizer as Core
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from outrider.core.errors import CheckpointError, OptionError, OutriderError
from outrider.models.checkpoints.templates import rendering
from outrider.models.checkpoints.templates.limits import TemplateLimitError, TemplateLimits
from outrider.models.checkpoints.templates.rendering import render, render_chat
from outrider.models.checkpoints.tokenizer import Tokenizer
from tests.fuzz.template_files import HOSTILE, ISOLATED, MANY
from tests.models.checkpoints.chat_templates import CONVERSATIONS, TEMPLATES

PAGE = Path(__file__).parents[3] / "docs" / "limits.md"
HELLO = [{"role": "user", "content": "hi"}]
QUICK = TemplateLimits(steps=50_000, value_characters=10**6, total_characters=10**7, seconds=5)


@pytest.fixture(scope="module")
def fast() -> PreTrainedTokenizerFast:
    core = Core(models.WordLevel({"a": 0}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def theirs(fast: Any, messages: Any, template: str) -> str:
    """The text of `transformers`, or its error."""
    try:
        return fast.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:
        return f"error: {error}"


def ours(fast: Any, messages: Any, template: str) -> str:
    try:
        return render_chat(fast, messages, name="demo", template=template)
    except Exception as error:
        return f"error: {error}"


def test_the_page_states_all_limits() -> None:
    section = PAGE.read_text().split("\n### Chat templates\n")[1].split("\n## ")[0]
    for field in fields(TemplateLimits):
        row = re.search(rf"^\| `{field.name}` \| ([\d,.]+) \|", section, re.MULTILINE)
        assert row is not None, field.name
        assert float(row[1].replace(",", "")) == field.default


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_that_of_transformers(name: str, fast: PreTrainedTokenizerFast) -> None:
    conversations = CONVERSATIONS if name != "unusual" else {"a": CONVERSATIONS["system"]}
    for messages in conversations.values():
        found = ours(fast, messages, TEMPLATES[name])
        assert found == theirs(fast, messages, TEMPLATES[name])


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"unusual"}))
def test_usual_templates_need_no_child(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def child(*_: Any, **__: Any) -> str:
        raise AssertionError("a child process was started")

    monkeypatch.setattr(rendering, "call_isolated", child)
    values = {"messages": CONVERSATIONS["one turn"], "bos_token": "<s>", "eos_token": "</s>"}
    assert render(TEMPLATES[name], values, name="demo")


_EXPRESSIONS = (
    "m.role", "m['content']", "'a'", "'é\\n'", "1", "2.5", "none", "true", "[1, 'b']", "(1, 2)",
    "{'k': [m.role]}", "nothing", "m", "loop.index", "messages", "ns.x", "messages|length",
)  # fmt: skip
_WRAPPED = (
    "{}|tojson", "{}|string", "{}|trim", "{}|upper", "{} ~ '|'", "{} + 'z'", "{} * 2", "[{}] + [0]",
    "{} == 'a'", "'a' in {}", "{} is string", "{} is defined", "{}|default('d')", "{}[0]",
    "{}[::-1]", "{}.strip()", "{}.split('e')", "({}, {})", "{}|list", "{}|join('-')", "{}|length",
    "not {}", "{} if m else 0", "{}|replace('e', 'EE')", "{}|tojson(indent=2)", "{}|first",
    "{}|items|list", "{}|int", "{}.get('role')", "{}|reverse|list", "{}|indent(2)", "dict(a={})",
    "{}|map('string')|list", "{} % 2", "{}|title", "{} < 3", "{} ** 2", "{}.upper()", "{}.format()",
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(_EXPRESSIONS), st.sampled_from(_WRAPPED)), max_size=3))
def test_expressions_have_the_values_of_transformers(parts: list[tuple[str, str]]) -> None:
    core = Core(models.WordLevel({"a": 0}, unk_token="a"))
    fast = PreTrainedTokenizerFast(tokenizer_object=core)
    body = "".join("{{ " + wrap.replace("{}", inner) + " }}\n" for inner, wrap in parts)
    template = (
        "{% set ns = namespace(x=0) %}{% for m in messages %}{% set ns.x = ns.x + 1 %}"
        f"{body}{{% endfor %}}"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "call_isolated", _no_child)
        found = ours(fast, CONVERSATIONS["one turn"] * 2, template)
    if "no child" not in found:
        assert found == theirs(fast, CONVERSATIONS["one turn"] * 2, template)


def _no_child(*_: Any, **__: Any) -> str:
    raise OptionError("no child")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(TemplateLimitError) as stopped:
        render(HOSTILE[name], {"messages": HELLO}, name="the folder demo", limits=QUICK)
    assert time.monotonic() - start < 4
    assert str(stopped.value).startswith("the chat template of the folder demo ")
    assert "\n" not in str(stopped.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ISOLATED)
def test_other_hostile_templates_are_stopped_in_a_child(name: str) -> None:
    start = time.monotonic()
    try:
        text = render(ISOLATED[name], {"messages": HELLO}, name="demo", limits=QUICK)
    except (TemplateLimitError, TemplateError):
        text = ""
    assert len(text) <= QUICK.value_characters
    assert time.monotonic() - start < 15


def test_an_operation_that_is_not_measured_runs_in_a_child_with_limits() -> None:
    template = "{{ 'a'.center(%d)|length }}"
    assert render(template % 20, {}, name="demo") == "20"
    with pytest.raises(TemplateLimitError, match="exceeds the limit memory_bytes"):
        render(template % 10**10, {}, name="demo")
    endless = "{{ ''.center(1) }}" + MANY
    with pytest.raises(TemplateLimitError, match="exceeds the limit seconds"):
        render(endless, {}, name="demo", limits=TemplateLimits(seconds=1))


def test_a_limit_names_the_folder_of_the_template(fast: PreTrainedTokenizerFast) -> None:
    fast.chat_template = "x" * (2 << 20)
    with pytest.raises(CheckpointError, match="of demo exceeds the limit source_characters"):
        Tokenizer(fast, name="demo").chat_text(HELLO)


@pytest.mark.parametrize(
    "template", ["{% if %}", "{{ a|no_such_filter }}", "{{ 1 / 0 }}", "{% x %}"]
)
def test_templates_that_are_wrong(template: str, fast: PreTrainedTokenizerFast) -> None:
    fast.chat_template = template
    with pytest.raises(OptionError, match="chat template of demo refuses"):
        Tokenizer(fast, name="demo").chat_text(HELLO)


def test_half_surrogate_pairs_are_refused(fast: PreTrainedTokenizerFast) -> None:
    fast.chat_template = "{{ '\\ud800' }}{{ messages[0].content }}"
    with pytest.raises(OutriderError, match="of demo writes half a surrogate pair"):
        Tokenizer(fast, name="demo").chat_text(HELLO)
    fast.chat_template = "{{ messages[0].content }}"
    with pytest.raises(OutriderError, match="a message is not text"):
        Tokenizer(fast, name="demo").chat_text([{"role": "user", "content": "\ud800"}])


def test_an_own_method_of_a_tokenizer_is_used() -> None:
    class Own:
        chat_template = "anything"

        def apply_chat_template(self, messages: Any, **options: Any) -> str:
            return f"own {messages[0]['content']} {options['add_generation_prompt']}"

    assert render_chat(Own(), HELLO, name="demo") == "own hi True"


def test_renderings_in_threads_do_not_share_a_meter(fast: PreTrainedTokenizerFast) -> None:
    from concurrent.futures import ThreadPoolExecutor

    template = "{% for i in range(2000) %}{{ i }}{% endfor %}"
    few = TemplateLimits(steps=30_000)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda _: render(template, {}, name="demo", limits=few), range(24))
    assert len(set(found)) == 1
