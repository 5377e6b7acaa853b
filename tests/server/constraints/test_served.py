"""Texts that follow the grammars of requests, through the official client and without it."""

import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from outrider.engine.generator import Generator
from outrider.sampling.constraint import Constraint
from tests.server.constraints.cases import FEW, HOSTILE, LATER
from tests.server.setups import CHAT, COMPLETE, HELLO, QUICK, Running
from tests.server.test_metrics import values


class Animal(BaseModel):
    """A schema whose texts are short."""

    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]
    friends: list[Literal["ann", "bob"]] = Field(max_length=2)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": [1, 22, 333]}, "b": {"type": "string", "maxLength": 4}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}
MORE: dict[str, Any] = {"seed": 3, "max_tokens": 64}
SHORT: dict[str, Any] = {"seed": 1, "guided_whitespace_pattern": " ?"}


def test_a_model_of_pydantic_is_parsed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny",
        messages=[{"role": "user", "content": "An animal"}],
        response_format=Animal,
        extra_body=SHORT,
        max_tokens=90,
    )
    [choice] = answer.choices
    assert isinstance(choice.message.parsed, Animal) and choice.finish_reason == "stop"
    with client.chat.completions.stream(
        model="tiny",
        messages=[{"role": "user", "content": "An animal"}],
        response_format=Animal,
        extra_body=SHORT,
        max_tokens=90,
    ) as stream:
        assert sum(event.type == "content.delta" for event in stream) > 0
        final = stream.get_final_completion().choices[0].message
    assert final.parsed == choice.message.parsed and final.content == choice.message.content


def test_responses_are_parsed(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "tiny", "input": "An animal", "max_output_tokens": 90}
    answer = client.responses.parse(**given, text_format=Animal, extra_body=SHORT)
    assert isinstance(answer.output_parsed, Animal) and answer.status == "completed"
    assert answer.text is not None and answer.text.format is not None
    assert answer.text.format.type == "json_schema" and answer.text.format.schema_
    with client.responses.stream(**given, text_format=Animal, extra_body=SHORT) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == answer.output_parsed


def test_the_text_is_that_of_the_library(served: Running, generator: Generator) -> None:
    body: dict[str, Any] = QUICK | MORE | {"response_format": FORM, "logprobs": True}
    answer = served.post(CHAT, body).json["choices"][0]
    expected = generator.generate(
        HELLO, json_schema=SCHEMA, seed=3, max_new_tokens=64, temperature=1.0, logprobs=0
    )
    assert answer["message"]["content"] == expected.text and answer["finish_reason"] == "stop"
    assert set(json.loads(expected.text)) == {"a", "b"}
    found = [one["logprob"] for one in answer["logprobs"]["content"]]
    wanted = [one.logprob for one in expected.logprobs or ()]
    assert found and len(wanted) - len(found) in (0, 1) and found == wanted[: len(found)]
    streamed = served.post(CHAT, body | {"stream": True}).chunks
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in streamed)
    assert text == expected.text


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"guided_choice": ["tea", "milk"]}, {"choice": ["tea", "milk"]}),
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, {"regex": "[0-9]{3}-[a-f]{2}"}),
        ({"grammar": 'root ::= "a" [b-d]? "."'}, {"gbnf": 'root ::= "a" [b-d]? "."'}),
        ({"guided_grammar": 'start: "x" /[0-9]/~3\n'}, {"grammar": 'start: "x" /[0-9]/~3\n'}),
    ],
)
def test_completions_follow_each_kind(
    served: Running, generator: Generator, fields: dict[str, Any], option: dict[str, Any]
) -> None:
    body = {"model": "tiny", "prompt": "Once", "n": 2, **MORE, **fields}
    answer = served.post(COMPLETE, body)
    assert answer.status == 200, answer.body
    expected = generator.generate("Once", n=2, seed=3, max_new_tokens=64, temperature=1.0, **option)
    assert [c["text"] for c in answer.json["choices"]] == [r.text for r in expected]


def test_messages_follow_a_schema(served: Running) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 64, "seed": 3}
    answer = served.post("/v1/messages", body | {"output_config": {"format": form}})
    assert answer.status == 200, answer.body
    assert set(json.loads(answer.json["content"][0]["text"])) == {"a", "b"}


@pytest.mark.parametrize("name", FEW)
def test_a_hostile_grammar_is_refused(served: Running, name: str) -> None:
    """The slow tests have all of them, under load."""
    answer = served.post(CHAT, QUICK | HOSTILE[name])
    assert answer.status == 400 and answer.error["code"] in ("invalid_schema", "invalid_value")
    assert answer.error["param"] in HOSTILE[name], answer.error
    assert "unsupported=" not in answer.error["message"]
    assert served.post(CHAT, QUICK).status == 200


def test_a_grammar_that_fails_later_ends_its_request_alone(
    served: Running, generator: Generator
) -> None:
    before = values(served)
    other = served.asked(QUICK | {"max_tokens": 40})
    failed = served.post(CHAT, QUICK | {"guided_grammar": LATER})
    assert failed.status == 500 and failed.error["code"] == "engine_error", failed.body
    assert "the grammar cannot be followed" in failed.error["message"]
    assert failed.headers["x-should-retry"] == "false"
    frames = served.post(CHAT, QUICK | {"guided_grammar": LATER, "stream": True}).frames
    assert frames[-1] == "data: [DONE]" and '"engine_error"' in frames[-2]
    expected = generator.generate(HELLO, seed=1, max_new_tokens=40, temperature=1.0)
    assert other.result(60).json["choices"][0]["message"]["content"] == expected.text
    assert served.idle() and not served.context.life.dead
    grown = values(served)
    name = "outrider:constraint_errors_total"
    assert grown[name] - before.get(name, 0) == 2


def test_metrics_count_grammars(served: Running) -> None:
    fields = {"guided_json": {"enum": ["once", "twice"]}}
    before = values(served)
    answers = [served.asked(QUICK | fields) for _ in range(3)]
    assert {one.result(60).status for one in answers} == {200}
    assert served.post(CHAT, QUICK | {"guided_regex": "(?=a)"}).status == 400
    assert served.post(CHAT, QUICK | {"guided_regex": "(?=a)"}).status == 400
    assert served.idle()
    after = values(served)

    def grown(name: str) -> float:
        return after.get(f"outrider:{name}", 0) - before.get(f"outrider:{name}", 0)

    assert grown("constraint_requests_total") == 5
    assert grown("constraint_refused_total") == 2
    assert grown("constraint_compile_seconds_count") == 2  # each grammar once
    assert grown("constraint_cache_hits_total") >= 1
    assert grown("constraint_violations_total") == 0
    assert grown("mask_seconds_count") > 0 and grown("mask_seconds_sum") > 0
    assert not any(name.startswith("vllm:mask") for name in after)


def test_a_process_that_dies_is_replaced(served: Running) -> None:
    assert served.post(CHAT, QUICK | HOSTILE["rules that end the process"]).status == 400
    fresh = Constraint.regex("[ab]{7}").source
    assert served.post(CHAT, QUICK | {"guided_regex": fresh}).status == 200
    assert len(served.context.admission.processes) <= 2


def test_fields_without_effect_are_named(served: Running) -> None:
    fields = {"guided_choice": ["a"], "guided_decoding_backend": "xgrammar"}
    answer = served.post(CHAT, QUICK | fields)
    assert answer.headers["x-outrider-ignored-fields"] == "guided_decoding_backend"
