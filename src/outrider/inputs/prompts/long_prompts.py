"""Builds prompts around documents: the text before them, the chunks, and the instruction."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from outrider.core.errors import ContextError, OptionError
from outrider.core.types import LongContext, Message, Passage, Prompt
from outrider.inputs.documents.chunks import Source, cut_sources
from outrider.inputs.documents.files import Document

Messages = Sequence[Message]

_GAP = "\n\n"
"""Text between documents, and between the last one and the instruction."""

_MARK = "[[the documents {}]]"
"""Placeholder for the documents in a chat template."""


@runtime_checkable
class Codec(Protocol):
    """Tokenizer functions that a long prompt needs (`models.tokenizer.Tokenizer`)."""

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """Token ids at the start of every text, such as BOS."""
        ...

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Encode `text` as a part of another text, without opening tokens."""
        ...

    def encode_spans(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Encode `text` as plain text without marks; also return where each token ends."""
        ...

    def encode_chat(self, text: str) -> tuple[int, ...]:
        """Encode a part of a conversation rendered by `chat_text`."""
        ...

    def chat_text(self, messages: Messages) -> str:
        """Render messages with the chat template, ready for the answer."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text."""
        ...


def long_prompt(
    codec: Codec,
    documents: Sequence[Document],
    instruction: str | Messages,
    *,
    chunk_size: int,
    chat: bool = False,
) -> Prompt:
    """Build a prompt that begins with documents and ends with an instruction about them.

    As plain text, the prompt is the documents, an empty line and the instruction. In a
    conversation, this is the last user message. If there are several documents, each begins with a
    line that names it. Marks inside a document are encoded as plain text. No chunk has parts of two
    documents.

    Args:
        codec: the tokenizer of the target.
        documents: their names and texts.
        instruction: the instruction as a text, or messages that end with it; messages imply `chat`.
        chunk_size: tokens of a chunk.
        chat: whether the instruction is a message.

    Returns:
        The prompt, with its `context`. `token_ids` are the head, all chunks and the rest.

    Raises:
        OptionError: a document or the instruction is missing or empty; there is no chat template,
            or it drops the documents.
    """
    sources = _sources(codec, documents)
    asked, messages = _asked(instruction)
    if chat or messages:
        head, tail = _around(codec, messages, asked)
    else:
        head, tail = codec.opening_ids, codec.encode_plain(f"{_GAP}{asked}")
    chunks, names = cut_sources(sources, chunk_size)
    context = LongContext(
        start=len(head),
        chunks=chunks,
        query=Passage(asked, codec.encode_plain(asked)),
        names=names if any(names) else (),
        decode=codec.decode,
    )
    ids = (*head, *(token for chunk in chunks for token in chunk.token_ids), *tail)
    return Prompt(token_ids=ids, context=context)


def check_budget(prompt: Prompt, budget: int) -> None:
    """Raise `ContextError` if the instruction and one chunk do not fit into `budget` tokens."""
    if prompt.context is None:
        return
    fixed = len(prompt) - prompt.context.num_tokens
    if fixed >= budget:
        raise ContextError(
            f"the instruction takes {fixed} tokens, but the budget is {budget}",
            hint=f"Raise --context-budget above {fixed} tokens, or shorten the instruction",
        )
    smallest = min(len(chunk) for chunk in prompt.context.chunks)
    if fixed + smallest > budget:
        raise ContextError(
            f"the instruction takes {fixed} tokens and the smallest chunk {smallest}, but the "
            f"budget is {budget}",
            hint=f"Raise --context-budget to {fixed + smallest} tokens, or lower --chunk-size",
        )


def _sources(codec: Codec, documents: Sequence[Document]) -> list[Source]:
    if not documents:
        raise OptionError("there is no document to read", hint="Give a text or a file")
    sources: list[Source] = []
    for number, (name, text) in enumerate(documents, start=1):
        if not text.strip():
            raise OptionError(f"the document {name or number} is empty")
        _check_text(text, f"the document {name or number}")
        if len(documents) > 1:
            text = f"{name or f'Document {number}'}:\n{text.rstrip()}"
            text += _GAP if number < len(documents) else ""
        ids, ends = codec.encode_spans(text)
        sources.append(Source(name=name, text=text, token_ids=ids, ends=ends))
    return sources


def _asked(instruction: str | Messages) -> tuple[str, list[dict[str, Any]]]:
    """Return the instruction, and the conversation before it, if any."""
    messages = [] if isinstance(instruction, str) else [dict(part) for part in instruction]
    asked = instruction if isinstance(instruction, str) else ""
    if messages:
        asked = messages[-1].get("content")
        if messages[-1].get("role") != "user" or not isinstance(asked, str):
            raise OptionError(
                f"the last message is {messages[-1]!r:.60}",
                hint="End with the instruction: a message of role 'user' with text content",
            )
    if not asked.strip():
        raise OptionError(
            "the instruction is empty",
            hint="Give an instruction, such as 'Summarize the documents.'",
        )
    _check_text(asked, "the instruction")
    return asked, messages


def _check_text(text: str, what: str) -> None:
    """Raise `OptionError` for a string that cannot be encoded (lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(
            f"{what} is not text: {error.reason} at character {error.start}",
            hint="Decode it with the encoding that it was written in",
        ) from None


def _around(
    codec: Codec, messages: Sequence[dict[str, Any]], asked: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Encode the text before and after the documents in a conversation that ends with `asked`."""
    before = list(messages[:-1])
    spelled = repr(messages) + asked
    mark = next(m for i in range(len(spelled)) if (m := _MARK.format(i)) not in spelled)
    text = codec.chat_text([*before, {"role": "user", "content": f"{mark}{_GAP}{asked}"}])
    if text.count(mark) != 1:
        raise OptionError(
            "the chat template changes the user's message, so that documents cannot be inserted "
            "into it",
            hint="Give the instruction as a plain string",
        )
    head, tail = text.split(mark)
    return codec.encode_chat(head), codec.encode_chat(tail)
