"""The forms a prompt may come in."""

from typing import Any

import pytest

from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.inputs.prompts.reading import is_batch, read_documents, read_prompt


class Codec:
    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode()

    def chat(self, messages: Any) -> tuple[int, ...]:
        return self.encode("".join(m["content"] for m in messages))


SAID = {"role": "user", "content": "ab"}


@pytest.mark.parametrize(
    ("prompt", "batch"),
    [
        ("ab", False),
        (Prompt(token_ids=(1,)), False),
        ([1, 2], False),
        ((1, 2), False),
        ([SAID, SAID], False),
        (3, False),
        ([], True),
        (["ab", "c"], True),
        (("ab",), True),
        ([[1, 2], (3,)], True),
        ([[SAID]], True),
        (["ab", [1], [SAID], Prompt(token_ids=(1,))], True),
    ],
)
def test_one_prompt_or_several(prompt: Any, batch: bool) -> None:
    assert is_batch(prompt) is batch


@pytest.mark.parametrize("prompt", ["ab", [97, 98], (97, 98), [SAID], (SAID,)])
def test_every_form_is_read(prompt: Any) -> None:
    assert read_prompt(prompt, Codec()).token_ids == (97, 98)


def test_a_prompt_stays_itself() -> None:
    prompt = Prompt(token_ids=(5,))
    assert read_prompt(prompt, None) is prompt
    assert read_prompt([1, 2], None).token_ids == (1, 2)


@pytest.mark.parametrize("prompt", [3, None, [], 1.5, {"role": "user"}])
def test_what_is_no_prompt_is_named(prompt: Any) -> None:
    with pytest.raises(OptionError) as refusal:
        read_prompt(prompt, Codec())
    assert f"the prompt is {prompt!r}. Give a string" in str(refusal.value)


@pytest.mark.parametrize(("prompt", "part"), [([1, "a"], "'a'"), ([1.0, 2.0], "1.0")])
def test_what_is_no_token_id_is_named(prompt: Any, part: str) -> None:
    with pytest.raises(OptionError, match=f"the prompt holds {part}, which is no token id"):
        read_prompt(prompt, Codec())


@pytest.mark.parametrize(("prompt", "what"), [("ab", "a string"), ([SAID], "chat messages")])
def test_text_without_a_tokenizer(prompt: Any, what: str) -> None:
    with pytest.raises(OptionError, match=f"the prompt is {what}, but the target has no tokenizer"):
        read_prompt(prompt, None)


@pytest.mark.parametrize("text", ["\u5b57" * 100, "~roughly five of them"])
def test_documents_that_can_be_no_path(text: str) -> None:
    assert read_documents(text) == [("", text)]
