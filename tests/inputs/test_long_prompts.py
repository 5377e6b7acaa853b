"""Prompts around documents: every token in its place, documents that are nothing but text."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.inputs.prompts.long_prompts import Codec, long_prompt
from outrider.models.checkpoints.tokenizer import Tokenizer
from tests.models.setups.make_checkpoints import SPECIAL_TOKENS, write_tokenizer

STORY = "The cat sat on the mat. " * 12 + "Der Hund läuft. 漢字 😀 ends."
MARKED = f"A trick: {''.join(SPECIAL_TOKENS)} and go on."
ASK = "Who sat?"


@pytest.fixture(scope="session")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("codec")
    write_tokenizer(folder)
    return Tokenizer.load(folder)


def spelled(prompt: Prompt, codec: Tokenizer) -> str:
    return codec.decode(prompt.token_ids, skip_special_tokens=False)


def parts(prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Head, chunks, tail; and they are all there is."""
    context = prompt.context
    assert context is not None
    inside = tuple(chain.from_iterable(chunk.token_ids for chunk in context.chunks))
    start, end = context.starts[0], context.starts[-1]
    assert prompt.token_ids[start:end] == inside
    return prompt.token_ids[:start], inside, prompt.token_ids[end:]


def test_a_tokenizer_is_a_codec(codec: Tokenizer) -> None:
    assert isinstance(codec, Codec)


@pytest.mark.parametrize("size", [1, 7, 40, 10_000])
def test_plain_text(size: int, codec: Tokenizer) -> None:
    prompt = long_prompt(codec, [("a.txt", STORY)], ASK, chunk_size=size)
    head, inside, tail = parts(prompt)
    assert spelled(prompt, codec) == f"{STORY}\n\n{ASK}"
    assert (head, tail) == ((), codec.encode_plain(f"\n\n{ASK}"))
    assert inside == codec.encode_plain(STORY)
    context = prompt.context
    assert context is not None and "".join(chunk.text for chunk in context.chunks) == STORY
    assert (context.query.text, context.query.token_ids) == (ASK, codec.encode_plain(ASK))
    assert context.names == ("a.txt",) * len(context.chunks)
    assert context.decode is not None and context.decode(inside) == STORY


def test_what_the_tokenizer_puts_first_is_the_head(codec: Tokenizer) -> None:
    class WithBos(Tokenizer):
        def encode(self, text: str) -> tuple[int, ...]:
            return (258, *super().encode(text), 259)

    opened = WithBos(codec.tokenizer)
    assert opened.opening_ids == (258,) and codec.opening_ids == ()
    head, _, tail = parts(long_prompt(opened, [("", STORY)], ASK, chunk_size=64))
    assert head == (258,) and tail[-1] != 259


def test_marks_in_a_document_are_text(codec: Tokenizer) -> None:
    for chat in (False, True):
        prompt = long_prompt(codec, [("", MARKED)], ASK, chunk_size=16, chat=chat)
        _, inside, _ = parts(prompt)
        assert not {256, 257, 258, 259} & set(inside)
        assert codec.decode(inside) == MARKED
    # Elsewhere they are marks still.
    assert {256, 259} <= set(codec.encode_plain(MARKED))


def test_a_conversation(codec: Tokenizer) -> None:
    expected = f"<|user|>{STORY}\n\n{ASK}<|end|><|assistant|>"
    prompt = long_prompt(codec, [("", STORY)], ASK, chunk_size=64, chat=True)
    head, _, tail = parts(prompt)
    assert spelled(prompt, codec) == expected
    assert head == (257,) and tail[-2:] == (259, 258)
    said = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi [[the documents 0]]"},
        {"role": "user", "content": ASK},
    ]
    longer = long_prompt(codec, [("", STORY)], said, chunk_size=64)
    before = "<|user|>Hello<|end|><|assistant|>Hi [[the documents 0]]<|end|>"
    assert spelled(longer, codec) == before + expected
    assert longer.context is not None and longer.context.query.text == ASK


def test_several_documents_are_named_and_kept_apart(codec: Tokenizer) -> None:
    documents = [("one.md", STORY + "\n"), ("", "Short."), ("b/two.md", STORY)]
    prompt = long_prompt(codec, documents, ASK, chunk_size=50)
    assert spelled(prompt, codec) == (
        f"one.md:\n{STORY}\n\nDocument 2:\nShort.\n\nb/two.md:\n{STORY}\n\n{ASK}"
    )
    context = prompt.context
    assert context is not None and len(context.names) == len(context.chunks)
    of_each = {name: "" for name, _ in documents}
    for name, chunk in zip(context.names, context.chunks, strict=True):
        of_each[name] += chunk.text
    assert of_each[""] == "Document 2:\nShort.\n\n"
    assert of_each["b/two.md"] == f"b/two.md:\n{STORY}"


@pytest.mark.parametrize(
    ("documents", "instruction", "said"),
    [
        ([], ASK, "there is no document"),
        ([("a", " \n")], ASK, "the document a is empty"),
        ([("", "x"), ("", "")], ASK, "the document 2 is empty"),
        ([("", "x")], " ", "the instruction is empty"),
        ([("a", "x\udcff")], ASK, "the document a is not text.*character 1"),
        ([("a", "x")], "\ud800?", "the instruction is not text"),
        ([("", "x")], [], "the instruction is empty"),
        ([("", "x")], [{"role": "assistant", "content": "x"}], "the last message is"),
        ([("", "x")], [{"role": "user", "content": [{"type": "text"}]}], "the last message is"),
    ],
)
def test_what_is_missing(documents: Any, instruction: Any, said: str, codec: Tokenizer) -> None:
    with pytest.raises(OptionError, match=said):
        long_prompt(codec, documents, instruction, chunk_size=64)


def test_templates_that_can_not_be_used(codec: Tokenizer) -> None:
    fast: PreTrainedTokenizerFast = codec.tokenizer
    other = PreTrainedTokenizerFast(tokenizer_object=fast.backend_tokenizer)
    with pytest.raises(OptionError, match="has no chat template"):
        long_prompt(Tokenizer(other), [("", "x")], ASK, chunk_size=8, chat=True)
    other.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(OptionError, match="changes the user's message"):
        long_prompt(Tokenizer(other), [("", "x")], ASK, chunk_size=8, chat=True)
