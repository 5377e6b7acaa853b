"""Prompts around documents: what comes before, the chunks, and the instruction after them."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from outrider.core.errors import ContextError, OptionError
from outrider.core.types import LongContext, Message, Passage, Prompt
from outrider.inputs.documents.chunks import Source, cut_sources
from outrider.inputs.documents.files import Document

Messages = Sequence[Message]

_GAP = "\n\n"
"""Between documents, and between the last one and the instruction."""

_MARK = "[[the documents {}]]"
"""Stands for the documents while a chat template is filled in."""


@runtime_checkable
class Codec(Protocol):
    """What a long prompt asks of a tokenizer (`models.tokenizer.Tokenizer`)."""

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """What stands before every text, such as BOS."""
        ...

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Ids of `text` as it would stand in the middle of another."""
        ...

    def encode_spans(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The same with nothing but text in it, and where each token ends."""
        ...

    def chat_text(self, messages: Messages) -> str:
        """Messages by the chat template, ready for the answer."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text."""
        ...


def long_prompt(
    codec: Codec,
    documents: Sequence[Document],
    instruction: str | Messages,
    *,
    chunk_size: int,
    chat: bool = False,
) -> Prompt:
    """A prompt that begins with documents and ends with what is asked of them.

    As plain text it is the documents, an empty line and the instruction. In a conversation that is
    the last message, of the user. Where there are several documents each begins with a line that
    names it. What a document holds is text, whatever marks it spells; no chunk has parts of two.

    Args:
        codec: the target's tokenizer.
        documents: their names and texts.
        instruction: what to do with them; messages, of which the last one is it, imply `chat`.
        chunk_size: tokens of a chunk.
        chat: whether the instruction is a message.

    Returns:
        The prompt, with its `context`. `token_ids` are a head, all chunks and the rest.

    Raises:
        OptionError: there is no document, no instruction, or one of them is empty; there is no
            chat template, or it has no place for them.
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
    """Raise `ContextError` when not even the instruction and a chunk fit into `budget` tokens."""
    if prompt.context is None:
        return
    fixed = len(prompt) - prompt.context.num_tokens
    if fixed >= budget:
        raise ContextError(
            f"the instruction takes {fixed} tokens, and the budget is {budget}",
            hint=f"Raise --context-budget above {fixed} tokens, or shorten the instruction",
        )
    smallest = min(len(chunk) for chunk in prompt.context.chunks)
    if fixed + smallest > budget:
        raise ContextError(
            f"the instruction takes {fixed} tokens and the smallest chunk {smallest}, and the "
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
    """The instruction, and the conversation that it ends, if any."""
    messages = [] if isinstance(instruction, str) else [dict(part) for part in instruction]
    asked = instruction if isinstance(instruction, str) else ""
    if messages:
        asked = messages[-1].get("content")
        if messages[-1].get("role") != "user" or not isinstance(asked, str):
            raise OptionError(
                f"the last message is {messages[-1]!r:.60}",
                hint="The instruction is the last message: text, of the role 'user'",
            )
    if not asked.strip():
        raise OptionError(
            "the instruction is empty", hint="Say what is to be done with the documents"
        )
    _check_text(asked, "the instruction")
    return asked, messages


def _check_text(text: str, what: str) -> None:
    """Raise `OptionError` for what Python calls a string and no encoding can spell."""
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
    """Ids before and after the documents in a conversation that ends with `asked`."""
    before = list(messages[:-1])
    spelled = repr(messages) + asked
    mark = next(m for i in range(len(spelled)) if (m := _MARK.format(i)) not in spelled)
    text = codec.chat_text([*before, {"role": "user", "content": f"{mark}{_GAP}{asked}"}])
    if text.count(mark) != 1:
        raise OptionError(
            "the chat template does not write the user's message as it is, so that documents have "
            "no place in it",
            hint="Give the instruction as a plain string",
        )
    head, tail = text.split(mark)
    return codec.encode_plain(head), codec.encode_plain(tail)
