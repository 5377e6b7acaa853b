"""`/v1/chat/completions` through the official client."""

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from outrider.engine.generator import Generator
from tests.server.setups import CHAT, HELLO, QUICK, Running

BASE: dict[str, Any] = {"model": "tiny", "messages": HELLO, "seed": 3, "max_tokens": 16}


def create(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    return client.chat.completions.create(**BASE | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 0.8, "top_p": 0.9, "seed": 5},
        {"frequency_penalty": 1.5, "presence_penalty": 0.5},
        {"extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2}},
        {"extra_body": {"min_tokens": 12, "ignore_eos": True}},
        {"max_tokens": None, "max_completion_tokens": 4},
        {"stop": ["you", "what"]},
        {"logit_bias": {"44": -100, "613": 5}},
    ],
)
def test_the_text_is_that_of_the_library(
    client: openai.OpenAI, generator: Generator, fields: dict[str, Any]
) -> None:
    answer = create(client, **fields)
    names = {"max_completion_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}
    own = BASE | {k: v for k, v in fields.items() if k != "extra_body"}
    own |= fields.get("extra_body", {})
    given = {names.get(k, k): v for k, v in own.items() if v is not None}
    given["max_new_tokens"] = given.pop("max_tokens", given.get("max_new_tokens"))
    for name in ("model", "messages"):
        del given[name]
    if "logit_bias" in given:
        given |= {"logit_bias": {613: 5}, "banned_tokens": [44]}
    expected = generator.generate(HELLO, **({"temperature": 1.0} | given))
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage is not None
    assert answer.usage.completion_tokens == expected.completion_tokens
    assert answer.usage.prompt_tokens == expected.prompt_tokens


def test_an_answer_has_the_fields_of_openai(client: openai.OpenAI) -> None:
    answer = create(client)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == "tiny" and answer.service_tier == "default"
    assert answer.system_fingerprint is not None and answer.system_fingerprint.startswith("fp_")
    [choice] = answer.choices
    assert choice.index == 0 and choice.logprobs is None and choice.message.tool_calls is None
    assert choice.message.role == "assistant" and choice.message.refusal is None
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_samples_are_those_of_the_library(client: openai.OpenAI, generator: Generator) -> None:
    answer = create(client, n=3)
    expected = generator.generate(HELLO, n=3, seed=3, max_new_tokens=16, temperature=1.0)
    assert [c.message.content for c in answer.choices] == [r.text for r in expected]
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(r.completion_tokens for r in expected)


@pytest.mark.parametrize("drafted", [True, False])
def test_logprobs_are_those_of_the_library(
    client: openai.OpenAI, generator: Generator, drafted: bool
) -> None:
    mode = {"speculation": {"mode": "exact" if drafted else "none"}}
    answer = create(client, logprobs=True, top_logprobs=3, extra_body=mode)
    expected = generator.generate(HELLO, seed=3, max_new_tokens=16, temperature=1.0, logprobs=3)
    found = answer.choices[0].logprobs
    assert found is not None and found.content is not None
    assert [t.logprob for t in found.content] == [t.logprob for t in expected.logprobs]
    assert all(len(token.top_logprobs) == 3 for token in found.content)
    text = b"".join(bytes(token.bytes or []) for token in found.content).decode()
    assert text.startswith(expected.text)


def test_logprobs_without_alternatives(client: openai.OpenAI) -> None:
    found = create(client, logprobs=True, top_logprobs=0).choices[0].logprobs
    assert found is not None and found.content
    assert all(token.top_logprobs == [] for token in found.content)


def test_the_same_seed_gives_the_same_text_and_no_seed_another(client: openai.OpenAI) -> None:
    first, second = create(client), create(client)
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.system_fingerprint == second.system_fingerprint
    assert first.id != second.id
    texts = {create(client, seed=None).choices[0].message.content for _ in range(4)}
    assert len(texts) > 1


def test_system_and_developer_are_the_same(client: openai.OpenAI) -> None:
    texts = [
        create(client, messages=[{"role": role, "content": "Be brief."}, *HELLO])
        .choices[0]
        .message.content
        for role in ("system", "developer")
    ]
    assert texts[0] == texts[1]


def test_parts_of_text_are_joined(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    answer = create(client, messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == create(client).choices[0].message.content


def test_a_last_message_is_continued(served: Running, generator: Generator) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "I am a "}]
    body = QUICK | {"messages": messages, "continue_final_message": True}
    prompt = served.post(f"{CHAT}/render", body).json
    assert prompt["prompt"].endswith("<|assistant|>\nI am a ")
    answer = served.post(CHAT, body | {"return_token_ids": True}).json
    assert answer["prompt_token_ids"] == prompt["prompt_token_ids"]
    assert served.post(CHAT, body | {"add_generation_prompt": True}).status == 400
    closed = served.post(f"{CHAT}/render", QUICK | {"add_generation_prompt": False}).json
    assert closed["prompt"].endswith("Hello<|end|>\n")


def test_rendering_gives_the_ids_that_are_read(served: Running, generator: Generator) -> None:
    found = served.post(f"{CHAT}/render", QUICK).json
    assert tuple(found["prompt_token_ids"]) == generator.prompt(HELLO).token_ids
    assert found["max_model_len"] == 2048


def test_a_stop_string_can_be_part_of_the_text(served: Running) -> None:
    whole = served.post(CHAT, QUICK).json["choices"][0]["message"]["content"]
    stop = whole.split()[1]
    body = QUICK | {"stop": stop}
    cut = served.post(CHAT, body).json["choices"][0]
    kept = served.post(CHAT, body | {"include_stop_str_in_output": True}).json["choices"][0]
    assert whole.startswith(cut["message"]["content"])
    assert kept["message"]["content"] == cut["message"]["content"] + stop
    assert cut["stop_reason"] == stop and cut["finish_reason"] == "stop"


def test_a_prompt_is_cut_on_request_only(served: Running) -> None:
    long = QUICK | {"messages": [{"role": "user", "content": "word " * 3000}]}
    error = served.post(CHAT, long)
    assert error.status == 400 and error.error["code"] == "context_length_exceeded"
    assert error.error["param"] == "messages" and "3" in error.error["message"]
    cut = served.post(CHAT, long | {"truncate_prompt_tokens": 40, "return_token_ids": True}).json
    assert cut["usage"]["prompt_tokens"] == 40 == len(cut["prompt_token_ids"])


def test_a_prediction_is_copied_and_counted_only_if_it_is_given(client: openai.OpenAI) -> None:
    plain = create(client, temperature=0)
    assert plain.usage is not None and plain.usage.completion_tokens_details is not None
    assert plain.usage.completion_tokens_details.accepted_prediction_tokens is None
    text = plain.choices[0].message.content or ""
    accepted = []
    for predicted in ("Nothing of this is in the answer.", text):
        prediction = {"type": "content", "content": predicted}
        answer = create(client, temperature=0, prediction=prediction)
        assert answer.choices[0].message.content == text
        assert answer.usage is not None and answer.usage.completion_tokens_details is not None
        accepted.append(answer.usage.completion_tokens_details.accepted_prediction_tokens)
        assert answer.usage.completion_tokens_details.rejected_prediction_tokens is not None
    assert accepted[1] > accepted[0]
    raw = answer.model_extra or {}
    assert raw["timings"]["draft_n_accepted"] == accepted[1]
    before = (plain.model_extra or {})["timings"]["draft_n_accepted"]
    assert accepted[1] > before


def test_raw_answers_hold_figures_of_drafting(served: Running) -> None:
    answer = served.post(CHAT, QUICK | {"return_token_ids": True, "return_sources": True}).json
    timings, [choice] = answer["timings"], answer["choices"]
    assert timings["predicted_n"] == len(choice["token_ids"]) == 8
    assert timings["draft_n"] >= timings["draft_n_accepted"] >= 0
    assert "".join(text for text, _ in choice["sources"]) == choice["message"]["content"]
    assert set(answer["metrics"]["speculative_decoding"]) >= {"num_drafts", "num_draft_tokens"}
