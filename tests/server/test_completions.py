"""`/v1/completions`, models and tokens through the official client."""

from typing import Any

import openai
import pytest

from outrider.engine.generator import Generator
from tests.server.setups import COMPLETE, Running

BASE: dict[str, Any] = {"model": "tiny", "prompt": "Once upon a time", "seed": 3, "max_tokens": 12}


def test_the_text_is_that_of_the_library(client: openai.OpenAI, generator: Generator) -> None:
    answer = client.completions.create(**BASE)
    expected = generator.generate("Once upon a time", seed=3, max_new_tokens=12, temperature=1.0)
    assert answer.choices[0].text == expected.text
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    ids = generator.prompt("Once upon a time").token_ids
    again = client.completions.create(**BASE | {"prompt": list(ids)})
    assert again.choices[0].text == expected.text


def test_the_default_length_is_16_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        **BASE | {"max_tokens": None}, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None and answer.usage.completion_tokens == 16


def test_several_prompts_and_samples(client: openai.OpenAI, generator: Generator) -> None:
    prompts = ["Once upon a time", "The dog"]
    answer = client.completions.create(**BASE | {"prompt": prompts}, n=2)
    expected = [
        generator.generate(prompt, n=2, seed=3, max_new_tokens=12, temperature=1.0)
        for prompt in prompts
    ]
    assert [c.text for c in answer.choices] == [r.text for pair in expected for r in pair]
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(pair[0].prompt_tokens for pair in expected)


def test_an_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(**BASE | {"max_tokens": 0}, echo=True, logprobs=2)
    [choice] = answer.choices
    assert choice.text == "Once upon a time"
    found = choice.logprobs
    assert found is not None and found.tokens is not None and found.token_logprobs is not None
    assert "".join(found.tokens) == "Once upon a time"
    assert found.token_logprobs[0] is None and all(v < 0 for v in found.token_logprobs[1:])
    assert found.text_offset == [0, 4, 9, 11]
    assert answer.usage is not None and answer.usage.completion_tokens == 0
    whole = client.completions.create(**BASE, echo=True, logprobs=2).choices[0]
    assert whole.logprobs is not None and whole.logprobs.token_logprobs is not None
    assert whole.logprobs.token_logprobs[:4] == found.token_logprobs
    assert whole.logprobs.text_offset is not None and whole.text.startswith("Once upon a time")
    for offset, token in zip(whole.logprobs.text_offset, whole.logprobs.tokens or [], strict=True):
        assert whole.text[offset:].startswith(token) or "\ufffd" in token or token.startswith("<|")


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_stream_holds_what_the_whole_answer_holds(
    client: openai.OpenAI, echo: bool, logprobs: int | None
) -> None:
    more = {"echo": echo, "logprobs": logprobs, "n": 2}
    whole = client.completions.create(**BASE | more)
    texts, tokens, reasons = ["", ""], [[], []], ["", ""]
    for chunk in client.completions.create(**BASE | more, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs is not None:
                tokens[choice.index] += choice.logprobs.token_logprobs or []
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [c.text for c in whole.choices]
    assert reasons == [c.finish_reason for c in whole.choices]
    if logprobs is not None:
        assert tokens == [c.logprobs and c.logprobs.token_logprobs for c in whole.choices]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [999999]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_wrong_fields_are_named(served: Running, fields: dict[str, Any], param: str) -> None:
    answer = served.post(COMPLETE, BASE | fields)
    assert answer.status == 400
    assert (answer.error["param"] or "").split(".")[0] == param, answer.error


def test_models(client: openai.OpenAI, served: Running) -> None:
    [model] = client.models.list().data
    assert model.id == "tiny" and model.object == "model"
    assert client.models.retrieve("tiny").id == "tiny"
    assert served.get("/v1/models/tiny").json["max_model_len"] == 2048
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("other")
    assert raised.value.code == "model_not_found"


def test_tokens_and_back(served: Running, generator: Generator) -> None:
    found = served.post("/tokenize", {"model": "tiny", "prompt": "Once upon"}).json
    assert found["count"] == len(found["tokens"]) == 2 and found["max_model_len"] == 2048
    assert served.post("/tokenize", {"content": "Once upon"}).json["tokens"] == found["tokens"]
    assert served.post("/detokenize", {"tokens": found["tokens"]}).json["prompt"] == "Once upon"
    messages = [{"role": "user", "content": "Hello"}]
    chat = served.post("/tokenize", {"messages": messages, "return_token_strs": True}).json
    assert tuple(chat["tokens"]) == generator.prompt(messages).token_ids
    assert "".join(chat["token_strs"]).startswith("<|user|>\nHello")
    assert served.post("/tokenize", {}).error["param"] == "prompt"
    assert served.post("/detokenize", {"tokens": [-1]}).status == 400
