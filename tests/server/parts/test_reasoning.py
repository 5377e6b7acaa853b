"""Reasoning between tags is split from the answer, in pieces of any size."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.server.answers.sample import Sample
from outrider.server.tools.calls import NoCalls, Thought
from outrider.server.tools.hermes import Hermes
from outrider.server.tools.reasoning import TAGS, Reasoning
from tests.server.parts.reading import joined
from tests.server.setups import CHAT, QUICK, Running

CASES: list[tuple[bool, str, str, str, int]] = [
    (False, "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes.", 20),
    (False, "\n<think>Hm. </think>Yes.", "Hm.", "Yes.", 20),
    (True, "Hm.\n</think>\n\nYes.", "Hm.", "Yes.", 12),
    (False, "Yes.", "", "Yes.", 0),
    (False, " <b>Yes</b>", "", " <b>Yes</b>", 0),
    (False, "<think>Hm, cut", "Hm, cut", "", 14),
    (True, "Hm </thin", "Hm </thin", "", 9),
    (False, "<thi", "", "<thi", 0),
    (False, "<think></think>\nYes. <think> no", "", "Yes. <think> no", 15),
    (False, "Yes <think>no</think>", "", "Yes <think>no</think>", 0),
]


@given(case=st.sampled_from(CASES), data=st.data())
def test_reasoning_is_split(case: tuple[bool, str, str, str, int], data: st.DataObject) -> None:
    inside, text, thought, answer, length = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parser = Reasoning(NoCalls(), inside)
    parts = [
        part
        for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)
        for part in parser.feed(text[a:b])
    ]
    parts += parser.close()
    assert "".join(p.text for p in parts if isinstance(p, Thought)) == thought
    assert "".join(p for p in parts if isinstance(p, str)) == answer
    assert parser.length == length


def test_calls_after_reasoning_are_found() -> None:
    parser = Reasoning(Hermes())
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    parts = parser.feed(f"<think>I call {call}</think>\n{call}") + parser.close()
    assert joined(parts) == [Thought(f"I call {call}"), ["f", "{}"]]


@pytest.fixture
def thinking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The model does not reason, so its text is replaced, and its template is said to know it."""
    monkeypatch.setattr("outrider.server.tools.choice.tags_of", lambda tokenizer: TAGS[0])
    real = Sample.add

    def add(self: Sample, event: Any, stop: Any = None) -> str:
        first = not self.token_ids
        real(self, event, stop)
        self.ends[:] = [8 + 2 * at for at in range(len(self.ends))]
        return "<think>Hm.</think>\nYes." if first else ""

    monkeypatch.setattr(Sample, "add", add)
    yield


@pytest.mark.usefixtures("thinking")
def test_reasoning_has_fields_of_its_own(served: Running, client: openai.OpenAI) -> None:
    answer = served.post(CHAT, QUICK | {"ignore_eos": True}).json
    message = answer["choices"][0]["message"]
    assert message["content"] == "Yes."
    assert message["reasoning_content"] == message["reasoning"] == "Hm."
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 6
    chunks = served.post(CHAT, QUICK | {"stream": True}).chunks
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(d.get("content") or "" for d in deltas) == "Yes."
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == "Hm."
    response = client.responses.create(model="tiny", input="Hello", max_output_tokens=8)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text == "Yes."
    events = list(
        client.responses.create(model="tiny", input="Hello", max_output_tokens=8, stream=True)
    )
    names = [event.type for event in events]
    assert names.index("response.reasoning_text.done") < names.index("response.output_text.delta")
