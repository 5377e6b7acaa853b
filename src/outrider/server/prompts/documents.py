"""Documents of a request: shown by the chat template, or read before the last message as a long
input of which the models read a selection."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from outrider.core.types import Message, Prompt
from outrider.core.values import JsonValue
from outrider.inputs.prompts.long_prompts import long_prompt
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.server.errors import invalid

Document = dict[str, JsonValue]
"""A text with a title, as templates read it."""


def documents_of(given: Sequence[str | Mapping[str, JsonValue]] | None) -> list[Document]:
    """Return documents with title and text; other fields are kept.

    Raises:
        ApiError: a document has no text.
    """
    found: list[Document] = []
    for at, one in enumerate(given or ()):
        document = {"text": one} if isinstance(one, str) else dict(one)
        if not isinstance(document.get("text"), str):
            raise invalid(
                f"documents.{at} has no text. Give a string, or an object with title and text",
                f"documents.{at}",
                "missing_field",
            )
        if not isinstance(document.setdefault("title", f"Document {at + 1}"), str):
            raise invalid(f"documents.{at}.title is no text", f"documents.{at}")
        found.append(document)
    return found


def prompt_with_documents(
    documents: Sequence[Document],
    messages: Sequence[Message],
    render: Callable[[Sequence[Message]], str],
    tokenizer: Tokenizer,
    chunk_size: int,
) -> Prompt:
    """Return a prompt whose last message begins with documents, cut into chunks.

    Args:
        documents: the documents.
        messages: the conversation; the last message is the instruction.
        render: renders messages with the chat template.
        tokenizer: the tokenizer of the target.
        chunk_size: tokens of a chunk.

    Raises:
        OptionError: a document or the instruction is empty, or the last message is not a text of
            the user.
    """
    texts = [(one["title"], one["text"]) for one in documents]
    codec = _Codec(tokenizer, render)
    prompt = long_prompt(codec, texts, messages, chunk_size=chunk_size, chat=True)
    assert prompt.context is not None
    return replace(prompt, context=replace(prompt.context, decode=tokenizer.decode))


@dataclass(frozen=True, slots=True)
class _Codec:
    """A tokenizer whose conversations are rendered with the tools of a request."""

    tokenizer: Tokenizer
    render: Callable[[Sequence[Message]], str]

    @property
    def opening_ids(self) -> tuple[int, ...]:
        return self.tokenizer.opening_ids

    def encode_plain(self, text: str) -> tuple[int, ...]:
        return self.tokenizer.encode_plain(text)

    def encode_spans(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.tokenizer.encode_spans(text)

    def encode_chat(self, text: str) -> tuple[int, ...]:
        return self.tokenizer.encode_chat(text)

    def chat_text(self, messages: Sequence[Message]) -> str:
        return self.render(messages)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)
