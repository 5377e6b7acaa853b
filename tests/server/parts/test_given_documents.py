"""Documents of a request: in the chat template, as a long input, or refused."""

from collections.abc import Iterator
from typing import Any

import pytest

import outrider
from outrider.context.config import ContextConfig
from outrider.engine.generator import Generator
from outrider.engine.serving.settings import ServingSettings
from outrider.models.checkpoints.tokenizer import Tokenizer
from tests.server.setups import CHAT, HELLO, QUICK, Running, running

TEXTS = ["The cat sleeps. " * 40, {"title": "Dogs", "text": "The dog barks. " * 40, "doc_id": 7}]
BODY = QUICK | {"documents": TEXTS}
SHOWN = (
    "{% for d in documents or [] %}[{{ d.title }}: {{ d.text }} {{ d.doc_id }}]{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}<|assistant|>\n"
)


@pytest.fixture(scope="module")
def selecting() -> Iterator[Running]:
    """A server whose models read 256 tokens of a prompt."""
    config = ContextConfig(budget=256, chunk_size=32, selector="bm25")
    found = outrider.load("tiny", threads=1, dtype="int8", selection=config, context_length=600)
    with running(found, engine_settings=ServingSettings(cache_tokens=1024)) as served:
        yield served


def test_without_a_way_to_read_them_they_are_refused(served: Running) -> None:
    answer = served.post(CHAT, BODY)
    assert answer.status == 400 and answer.error["code"] == "unsupported_field"
    assert answer.error["param"] == "documents" and "--keep-ratio" in answer.error["message"]
    assert served.post(CHAT, QUICK | {"documents": []}).status == 200


@pytest.mark.parametrize(
    ("documents", "param"),
    [([{"title": "a"}], "documents.0"), (["a", {"text": "b", "title": 3}], "documents.1")],
)
def test_documents_have_texts(served: Running, documents: Any, param: str) -> None:
    answer = served.post(CHAT, QUICK | {"documents": documents})
    assert answer.status == 400 and answer.error["param"] == param


def test_the_chat_template_shows_them(served: Running, generator: Generator) -> None:
    tokenizer = generator.tokenizer
    assert isinstance(tokenizer, Tokenizer)
    kept = tokenizer.tokenizer.chat_template
    tokenizer.tokenizer.chat_template = SHOWN
    tokenizer.__dict__.pop("reads_documents", None)
    try:
        body = QUICK | {"documents": ["One <|end|>", {"title": "Dogs", "text": "Two", "doc_id": 7}]}
        with pytest.warns(match="control token"):
            answer = served.post(f"{CHAT}/render", body)
        found = answer.json
        assert found["prompt"].startswith("[Document 1: One <|end|> ][Dogs: Two 7]<|user|>")
        end = served.post("/tokenize", {"prompt": "<|end|>", "add_special_tokens": False}).json
        assert found["prompt_token_ids"].count(end["tokens"][0]) == 1  # that of the message
        assert "x-outrider-ignored-fields" not in answer.headers
    finally:
        tokenizer.tokenizer.chat_template = kept
        tokenizer.__dict__.pop("reads_documents", None)


def test_they_are_a_long_input_where_the_models_read_a_selection(selecting: Running) -> None:
    rendered = selecting.post(f"{CHAT}/render", BODY).json
    assert "Dogs:\nThe dog barks." in rendered["prompt"] and rendered["count"] > 400
    answer = selecting.post(CHAT, BODY).json
    generator = selecting.context.generator
    expected = generator.generate(
        HELLO,
        documents=[("Document 1", TEXTS[0]), ("Dogs", TEXTS[1]["text"])],  # pyright: ignore
        seed=1,
        max_new_tokens=8,
        temperature=1.0,
    )
    assert answer["choices"][0]["message"]["content"] == expected.text
    assert answer["usage"]["prompt_tokens"] == rendered["count"] == expected.prompt_tokens
    chunks = selecting.post(CHAT, BODY | {"stream": True}).chunks
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == expected.text
    plain = selecting.post(CHAT, QUICK).json["choices"][0]["message"]["content"]
    assert plain == generator.generate(HELLO, seed=1, max_new_tokens=8, temperature=1.0).text


def test_documents_and_tools_go_together(selecting: Running) -> None:
    tool = {"type": "function", "function": {"name": "get_weather"}}
    found = selecting.post(f"{CHAT}/render", BODY | {"tools": [tool]}).json["prompt"]
    assert "get_weather" in found and "The cat sleeps." in found


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 100}, "truncate_prompt_tokens"),
        ({"continue_final_message": True}, "documents"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hi"}]}, "messages"),
        ({"documents": ["a", ""]}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, "messages"),
    ],
)
def test_what_does_not_go_with_them_is_refused(
    selecting: Running, fields: dict[str, Any], param: str
) -> None:
    answer = selecting.post(CHAT, BODY | fields)
    assert answer.status == 400 and answer.error["param"] == param, answer.error
